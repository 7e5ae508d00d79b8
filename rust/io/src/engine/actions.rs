//! Commands, read and checked as a whole before any of them is applied.

use std::net::{IpAddr, SocketAddr};

use warren_core::routes::Prefix;
use warren_core::seam::{Batch, Command, FilterRule, MalformedSeam, Peer, RelayNode};
use warren_core::wg::{PeerConfig, PrivateKey, PublicKey};

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
        addr: Option<SocketAddr>,
        lease_ms: u64,
    },
    Region {
        region: u16,
        nodes: Vec<RelayNode>,
    },
    Home {
        region: u16,
    },
    Datagram {
        to: SocketAddr,
        data: Vec<u8>,
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
        } => Action::Path {
            peer: PublicKey(*peer),
            addr: addr.as_deref().map(address).transpose()?,
            lease_ms,
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
        Command::SendDatagram { to, data } => Action::Datagram {
            to: address(&to)?,
            data: data.into_vec(),
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
    })
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

    #[test]
    fn texts_that_are_no_addresses_are_refused_in_one_sentence() {
        let key = [7; 32];
        let bad = [
            Command::SetIdentity {
                private_key: key.into(),
                addresses: vec!["100.64.0.1/33".into()],
            },
            Command::SetPath {
                peer: key.into(),
                addr: Some("100.64.0.1".into()),
                lease_ms: 1,
            },
            Command::SendDatagram {
                to: "[::1]".into(),
                data: vec![].into(),
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
        ];
        for command in bad {
            assert!(compile_one(command).is_err());
        }
        let good = Command::SetPath {
            peer: key.into(),
            addr: Some("[::1]:9".into()),
            lease_ms: 1,
        };
        assert!(compile_one(good).is_ok());
    }
}
