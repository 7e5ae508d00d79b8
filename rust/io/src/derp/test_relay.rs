//! A small relay in the test's own process: enough of PROTOCOL §4 to log in, forward, misbehave.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_bytes::ByteArray;
use warren_core::derp::frames::{self, FrameReader, MAGIC};
use warren_core::derp::login::{self, ServerInfo};
use warren_core::derp::{RawKey, upgrade};
use warren_core::seam::RelayNode;

const SERVER_PRIVATE: RawKey = [0x77; 32];

trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// One logged-in client, for the test to look at and to write to.
#[derive(Clone)]
pub(super) struct Client {
    conn: Arc<Mutex<Box<dyn Duplex>>>,
    socket: Arc<TcpStream>,
}

impl Client {
    pub(super) fn write(&self, bytes: &[u8]) {
        let mut conn = self.conn.lock().unwrap();
        let _ = conn.write_all(bytes).and_then(|()| conn.flush());
    }

    pub(super) fn frame(&self, kind: u8, parts: &[&[u8]]) {
        let mut bytes = Vec::new();
        frames::push_frame(&mut bytes, kind, parts);
        self.write(&bytes);
    }
}

/// What the relay noticed.
#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) logins: usize,
    pub(super) fast_starts: usize,
    /// NotePreferred and Pong frames, by client key.
    pub(super) notes: Vec<(RawKey, u8, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Plain,
    Tls { meta_certificate: bool },
}

pub(super) struct TestRelay {
    pub(super) addr: SocketAddr,
    kind: Kind,
    tls: Option<(Arc<ServerConfig>, [u8; 32])>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    mute: AtomicBool,
    clients: Mutex<HashMap<RawKey, Client>>,
    seen: Mutex<Seen>,
}

fn certificates(meta: bool) -> (Arc<ServerConfig>, [u8; 32]) {
    let leaf = rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).unwrap();
    let der: CertificateDer<'static> = leaf.cert.der().clone();
    let pin = ring::digest::digest(&ring::digest::SHA256, &der)
        .as_ref()
        .try_into()
        .unwrap();
    let mut chain = vec![der];
    if meta {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::default();
        let hex: String = login::public_key(&SERVER_PRIVATE)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, format!("derpkey{hex}"));
        params.serial_number = Some(2u64.into());
        chain.push(params.self_signed(&key).unwrap().der().clone());
    }
    let key = PrivatePkcs8KeyDer::from(leaf.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    (Arc::new(config), pin)
}

impl TestRelay {
    pub(super) fn start(kind: Kind) -> Self {
        let tls = match kind {
            Kind::Plain => None,
            Kind::Tls { meta_certificate } => Some(certificates(meta_certificate)),
        };
        let mut relay = Self {
            addr: "127.0.0.1:0".parse().unwrap(),
            kind,
            tls,
            shared: Arc::default(),
            accepting: None,
        };
        relay.listen();
        relay
    }

    /// Listen, on the same port as before when this is a restart.
    pub(super) fn listen(&mut self) {
        let listener = TcpListener::bind(self.addr).unwrap();
        self.addr = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let seen = self.seen();
        self.shared = Arc::new(Shared {
            seen: Mutex::new(seen),
            ..Shared::default()
        });
        let (shared, config) = (
            self.shared.clone(),
            self.tls.as_ref().map(|tls| tls.0.clone()),
        );
        self.accepting = Some(std::thread::spawn(move || {
            while !shared.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((socket, _)) => {
                        let (shared, config) = (shared.clone(), config.clone());
                        std::thread::spawn(move || {
                            let _ = serve(&shared, socket, config);
                        });
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        }));
    }

    /// Close the listener and every connection.
    pub(super) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.accepting.take() {
            thread.join().unwrap();
        }
        for client in self.shared.clients.lock().unwrap().values() {
            let _ = client.socket.shutdown(std::net::Shutdown::Both);
        }
    }

    pub(super) fn node(&self) -> RelayNode {
        RelayNode {
            addrs: vec![self.addr.to_string()],
            server_name: "relay.test".to_owned(),
            cert_sha256: self.tls.as_ref().map(|tls| ByteArray::new(tls.1)),
            plain: self.kind == Kind::Plain,
            insecure: false,
            proxy: None,
        }
    }

    /// From now on take what clients send and answer nothing; new connections are served.
    pub(super) fn fall_mute(&self) {
        self.shared.mute.store(true, Ordering::Relaxed);
    }

    pub(super) fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap().clone()
    }

    pub(super) fn client(&self, key: &RawKey) -> Option<Client> {
        self.shared.clients.lock().unwrap().get(key).cloned()
    }
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(shared: &Shared, socket: TcpStream, config: Option<Arc<ServerConfig>>) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    let watcher = Arc::new(socket.try_clone()?);
    let mut conn: Box<dyn Duplex> = match config {
        None => Box::new(socket),
        Some(config) => {
            let tls = ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(tls, socket))
        }
    };
    // The request, byte by byte: frames may follow it at once.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        conn.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > upgrade::MAX_HEAD {
            return Err(ErrorKind::InvalidData.into());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if !head.starts_with("GET /derp HTTP/1.1\r\n") {
        return conn.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    let fast = head.contains("\r\nDerp-Fast-Start: 1\r\n");
    let mut hello = Vec::new();
    if !fast {
        hello.extend(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n",
        );
    }
    let public = login::public_key(&SERVER_PRIVATE);
    frames::push_frame(&mut hello, frames::SERVER_KEY, &[&MAGIC, &public]);
    conn.write_all(&hello)?;
    conn.flush()?;
    forward(shared, conn, watcher, fast)
}

fn forward(
    shared: &Shared,
    conn: Box<dyn Duplex>,
    socket: Arc<TcpStream>,
    fast: bool,
) -> io::Result<()> {
    let client = Client {
        conn: Arc::new(Mutex::new(conn)),
        socket: socket.clone(),
    };
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    let mut reader = FrameReader::new(frames::MAX_CLIENT_FRAME);
    let mut piece = vec![0; 64 << 10];
    let mut own: Option<RawKey> = None;
    loop {
        let got = client.conn.lock().unwrap().read(&mut piece);
        match got {
            Ok(0) => break,
            Ok(count) => reader.push(&piece[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                std::thread::yield_now();
                continue;
            }
            Err(_) => break,
        }
        while let Some((kind, payload)) = reader.next_frame().map_err(io::Error::other)? {
            if own.is_some() && shared.mute.load(Ordering::Relaxed) {
                continue;
            }
            match (kind, own) {
                (frames::CLIENT_INFO, None) => {
                    let (key, _) = login::parse_client_info_untrusted(payload, &SERVER_PRIVATE)
                        .map_err(io::Error::other)?;
                    let info = ServerInfo {
                        version: 2,
                        ..ServerInfo::default()
                    };
                    let sealed = login::encode_server_info(&info, &SERVER_PRIVATE, &key, &[5; 24]);
                    own = Some(key);
                    {
                        let mut seen = shared.seen.lock().unwrap();
                        seen.logins += 1;
                        seen.fast_starts += usize::from(fast);
                    }
                    // Known before it is told so: others may send to it at once.
                    shared.clients.lock().unwrap().insert(key, client.clone());
                    client.frame(frames::SERVER_INFO, &[&sealed]);
                }
                (frames::SEND_PACKET, Some(own)) => {
                    let (dst, packet) = payload.split_first_chunk::<32>().unwrap();
                    let target = shared.clients.lock().unwrap().get(dst).cloned();
                    match target {
                        Some(target) => target.frame(frames::RECV_PACKET, &[&own, packet]),
                        None => client.frame(frames::PEER_GONE, &[dst, &[1]]),
                    }
                }
                (frames::NOTE_PREFERRED | frames::PONG, Some(own)) => {
                    shared
                        .seen
                        .lock()
                        .unwrap()
                        .notes
                        .push((own, kind, payload.to_vec()));
                }
                (frames::PING, Some(_)) => client.frame(frames::PONG, &[payload]),
                (kind, _) => panic!("a client sent frame {kind:#04x} out of turn"),
            }
        }
    }
    // A later connection with the same key may have taken the place.
    let same = |other: &mut Client| Arc::ptr_eq(&other.conn, &client.conn);
    shared
        .clients
        .lock()
        .unwrap()
        .retain(|_, other| !same(other));
    Ok(())
}
