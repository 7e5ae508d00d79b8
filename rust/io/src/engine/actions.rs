//! Commands, read and checked as a whole before any of them is applied.

use std::net::{IpAddr, SocketAddr};

use warren_core::hop::{Content, Hop, SocketRef, Wrap};
use warren_core::path::BASE_MTU_BYTES;
use warren_core::routes::Prefix;
use warren_core::seam::{Batch, Command, FilterRule, MalformedSeam, Peer, RelayNode};
use warren_core::wg::{PeerConfig, PrivateKey, PublicKey};

use crate::udp::MAX_GROUP;

const MAX_VNI: u32 = (1 << 24) - 1;

/// What one `apply` asks for.
pub(crate) struct Work {
    pub(crate) generation: u64,
    pub(crate) actions: Vec<Action>,
}

/// A command with its texts parsed (`commands.py` tells what each means).
pub(crate) enum Action {
    Identity {
        private: PrivateKey,
        addresses: Vec<IpAddr>,
    },
    Peers {
        upsert: Vec<PeerConfig>,
        remove: Vec<PublicKey>,
    },
    Filter {
        rules: Vec<FilterRule>,
        shields_up: bool,
    },
    Path {
        peer: PublicKey,
        hop: Option<Hop>,
        lease_ms: u64,
        mtu_bytes: usize,
    },
    Region {
        region: u16,
        nodes: Vec<RelayNode>,
    },
    Home {
        region: u16,
    },
    Datagram {
        to: Hop,
        content: Content,
        data: Vec<u8>,
        whole: bool,
    },
    Relayed {
        region: u16,
        peer: PublicKey,
        data: Vec<u8>,
    },
    Packet(Vec<u8>),
    Rebind {
        port: u16,
    },
    Dial {
        id: u64,
        to: SocketAddr,
    },
    Splice {
        id: u64,
        fd: i32,
    },
    Hangup {
        id: u64,
    },
    OpenSockets {
        group: u32,
        count: u16,
    },
    OpenStream {
        group: u32,
        addr: SocketAddr,
        to: RelayNode,
    },
    CloseSockets {
        group: u32,
    },
    KeepSocket(SocketRef),
    Forward {
        vni: u32,
        ends: Option<[SocketAddr; 2]>,
    },
    Turn {
        server: SocketAddr,
        on: bool,
    },
}

/// Parses every text in a batch.
///
/// # Errors
/// [`MalformedSeam`] with one sentence; nothing of the batch is to be applied then.
pub(crate) fn compile(batch: Batch) -> Result<Work, MalformedSeam> {
    let actions = batch
        .commands
        .into_iter()
        .map(read)
        .collect::<Result<_, _>>()?;
    Ok(Work {
        generation: batch.generation,
        actions,
    })
}

fn read(command: Command) -> Result<Action, MalformedSeam> {
    Ok(match command {
        Command::SetIdentity {
            private_key,
            addresses,
        } => Action::Identity {
            private: PrivateKey(*private_key),
            addresses: prefixes(&addresses)?.iter().map(Prefix::addr).collect(),
        },
        Command::SetPeers { upsert, remove } => Action::Peers {
            upsert: upsert.iter().map(peer).collect::<Result<_, _>>()?,
            remove: remove.iter().map(|key| PublicKey(**key)).collect(),
        },
        Command::SetFilter { rules, shields_up } => Action::Filter { rules, shields_up },
        Command::SetPath {
            peer,
            addr,
            lease_ms,
            group,
            index,
            vni,
            channel,
            mtu_bytes,
        } => Action::Path {
            peer: PublicKey(*peer),
            hop: addr
                .map(|addr| hop(&addr, SocketRef { group, index }, vni, channel))
                .transpose()?,
            lease_ms,
            mtu_bytes: path_mtu(mtu_bytes)?,
        },
        Command::SetRegion { region, nodes } => {
            let number = region_number(region)?;
            if number == 0 {
                return Err(MalformedSeam("0 is not a relay region".to_owned()));
            }
            Action::Region {
                region: number,
                nodes,
            }
        }
        Command::SetHome { region } => Action::Home {
            region: region_number(region)?,
        },
        Command::SendDatagram {
            to,
            data,
            group,
            index,
            vni,
            control,
            channel,
            whole,
        } => Action::Datagram {
            to: hop(&to, SocketRef { group, index }, vni, channel)?,
            content: match (control, vni) {
                (false, _) => Content::Disco,
                (true, 1..) => Content::Control,
                (true, 0) => return malformed("the control bit stands only beside a VNI"),
            },
            data: data.into_vec(),
            whole,
        },
        Command::SendRelayed { region, peer, data } => Action::Relayed {
            region: region_number(region)?,
            peer: PublicKey(*peer),
            data: data.into_vec(),
        },
        Command::SendPacket { packet } => Action::Packet(packet.into_vec()),
        Command::Rebind { port } => Action::Rebind { port },
        Command::Dial { id, to } => Action::Dial {
            id,
            to: address(&to)?,
        },
        Command::Splice { id, fd } => Action::Splice { id, fd },
        Command::Hangup { id } => Action::Hangup { id },
        Command::OpenSockets { group, count } => {
            if group == 0 || count == 0 || count > MAX_GROUP {
                return malformed(&format!(
                    "a socket group has a number from 1 and 1 to {MAX_GROUP} sockets, not {group} and {count}"
                ));
            }
            Action::OpenSockets { group, count }
        }
        Command::OpenStream { group: 0, .. }
        | Command::CloseSockets { group: 0 }
        | Command::KeepSocket { group: 0, .. } => {
            return malformed("socket groups are numbered from 1");
        }
        Command::OpenStream { group, to } => {
            let [addr] = &to.addrs[..] else {
                return malformed("a stream leads to one address");
            };
            let addr = address(addr)?;
            Action::OpenStream { group, addr, to }
        }
        Command::CloseSockets { group } => Action::CloseSockets { group },
        Command::KeepSocket { group, index } => Action::KeepSocket(SocketRef { group, index }),
        Command::SetForward { vni, a, b } => {
            if vni == 0 || vni > MAX_VNI {
                return malformed(&format!("{vni} is no VNI (1 to {MAX_VNI})"));
            }
            let ends = match (a, b) {
                (Some(a), Some(b)) => Some([address(&a)?, address(&b)?]),
                _ => None,
            };
            Action::Forward { vni, ends }
        }
        Command::SetTurn { server, on } => Action::Turn {
            server: address(&server)?,
            on,
        },
    })
}

/// Where to, by which socket, in which wrapping.
fn hop(addr: &str, socket: SocketRef, vni: u32, channel: u16) -> Result<Hop, MalformedSeam> {
    let addr = address(addr)?;
    let wrap = match (vni, channel) {
        (0, 0) => Wrap::Plain,
        (1..=MAX_VNI, 0) => Wrap::Geneve(vni),
        (0, 0x4000..=0x4fff) => Wrap::Channel(channel),
        (1.., 1..) => return malformed("a path has a VNI or a channel, not both"),
        (0, _) => return malformed(&format!("{channel} is no TURN channel (16384 to 20479)")),
        _ => return malformed(&format!("{vni} is no VNI (1 to {MAX_VNI})")),
    };
    if socket.group == 0 && socket.index != 0 {
        return malformed("the main socket has index 0");
    }
    Ok(Hop { addr, socket, wrap })
}

fn path_mtu(mtu_bytes: u16) -> Result<usize, MalformedSeam> {
    match usize::from(mtu_bytes) {
        mtu_bytes @ BASE_MTU_BYTES.. => Ok(mtu_bytes),
        _ => malformed(&format!(
            "a path carries {BASE_MTU_BYTES} bytes at least, not {mtu_bytes}"
        )),
    }
}

fn malformed<T>(sentence: &str) -> Result<T, MalformedSeam> {
    Err(MalformedSeam(sentence.to_owned()))
}

fn peer(peer: &Peer) -> Result<PeerConfig, MalformedSeam> {
    Ok(PeerConfig {
        key: PublicKey(*peer.key),
        allowed_ips: prefixes(&peer.allowed_ips)?,
        home_region: region_number(peer.home_region)?.into(),
        roams: peer.roams,
        endpoint: peer.endpoint.as_deref().map(address).transpose()?,
        keepalive_s: peer.keepalive_s,
    })
}

fn prefixes(texts: &[String]) -> Result<Vec<Prefix>, MalformedSeam> {
    let parse = |text: &String| {
        text.parse()
            .map_err(|error| MalformedSeam(format!("{error}")))
    };
    texts.iter().map(parse).collect()
}

fn address(text: &str) -> Result<SocketAddr, MalformedSeam> {
    text.parse()
        .map_err(|_| MalformedSeam(format!("{text:?} is no address and port")))
}

fn region_number(region: u32) -> Result<u16, MalformedSeam> {
    u16::try_from(region).map_err(|_| MalformedSeam(format!("{region} is no relay region")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile_one(command: Command) -> Result<Work, MalformedSeam> {
        compile(Batch {
            generation: 1,
            commands: vec![command],
        })
    }

    fn path(addr: &str, group: u32, index: u16, vni: u32, channel: u16) -> Command {
        Command::SetPath {
            peer: [7; 32].into(),
            addr: Some(addr.into()),
            lease_ms: 1,
            group,
            index,
            vni,
            channel,
            mtu_bytes: 1280,
        }
    }

    fn small_path() -> Command {
        Command::SetPath {
            peer: [7; 32].into(),
            addr: None,
            lease_ms: 1,
            group: 0,
            index: 0,
            vni: 0,
            channel: 0,
            mtu_bytes: 1279,
        }
    }

    fn open_stream(group: u32, addrs: &[&str]) -> Command {
        let to = RelayNode {
            addrs: addrs.iter().map(|addr| (*addr).to_owned()).collect(),
            server_name: "turn.example".into(),
            cert_sha256: None,
            plain: true,
            insecure: false,
            proxy: None,
        };
        Command::OpenStream { group, to }
    }

    fn control_without_vni() -> Command {
        Command::SendDatagram {
            to: "192.0.2.1:1".into(),
            data: vec![].into(),
            group: 0,
            index: 0,
            vni: 0,
            control: true,
            channel: 0,
            whole: false,
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_one_sentence() {
        let key = [7; 32];
        let bad = [
            Command::SetIdentity {
                private_key: key.into(),
                addresses: vec!["100.64.0.1/33".into()],
            },
            Command::SetHome { region: 70_000 },
            Command::SetRegion {
                region: 0,
                nodes: vec![],
            },
            Command::Dial {
                id: 1,
                to: "name:80".into(),
            },
            path("100.64.0.1", 0, 0, 0, 0),
            path("192.0.2.1:1", 0, 1, 0, 0),
            path("192.0.2.1:1", 0, 0, 1 << 24, 0),
            path("192.0.2.1:1", 0, 0, 1, 0x4000),
            path("192.0.2.1:1", 0, 0, 0, 0x3fff),
            path("192.0.2.1:1", 0, 0, 0, 0x5000),
            control_without_vni(),
            small_path(),
            Command::OpenSockets { group: 0, count: 1 },
            Command::OpenSockets { group: 1, count: 0 },
            open_stream(0, &["192.0.2.7:5349"]),
            open_stream(1, &[]),
            open_stream(1, &["turn.example:5349"]),
            Command::CloseSockets { group: 0 },
            Command::KeepSocket { group: 0, index: 0 },
            Command::OpenSockets {
                group: 1,
                count: 513,
            },
            Command::SetForward {
                vni: 0,
                a: None,
                b: None,
            },
            Command::SetForward {
                vni: 1,
                a: Some("a:1".into()),
                b: Some("[::1]:1".into()),
            },
            Command::SetTurn {
                server: "turn.example:3478".into(),
                on: true,
            },
        ];
        for command in bad {
            let name = format!("{command:?}");
            let Err(MalformedSeam(sentence)) = compile_one(command) else {
                panic!("{name} was taken");
            };
            assert!(!sentence.contains('\n'));
        }
        for good in [
            path("[::1]:9", 0, 0, 0, 0),
            path("192.0.2.1:1", 3, 511, 0xff_ffff, 0),
            path("192.0.2.1:1", 3, 511, 0, 0x4fff),
        ] {
            assert!(compile_one(good).is_ok());
        }
    }
}
