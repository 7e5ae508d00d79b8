//! Loads a DERP relay with clients in pairs and counts what comes through; prints a line of JSON
//! for each rate.
//!
//! `cargo run --release -p warren-io --example relay_load -- --relay 127.0.0.1:443 --clients 20`
//!
//! Every client sends to its partner. What comes back is counted by the headers of its TLS
//! records and not opened: so this program does less than the relay for a packet, and is not what
//! is measured. Whether packets come through whole is for the tests.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use warren_core::derp::RawKey;
use warren_core::derp::frames::{FrameReader, MAX_CLIENT_FRAME, push_send_packet, send_packet_len};
use warren_core::derp::login::{ClientLogin, Step, public_key};
use warren_core::derp::upgrade::{check_switched, encode_request, parse_head_untrusted};

const USAGE: &str = "relay_load --relay IP:PORT [--clients 2] [--packet 1280] [--seconds 2] \
                     [--rates PACKETS_A_SECOND,... (0: all that goes)] [--burst 8]";
/// What a TLS 1.3 record has beside its content: a type byte and a tag (RFC 8446 §5.2).
const RECORD_EXTRA: usize = 17;
/// Credit that could not be used within this time is lost: the relay pushed back.
const CREDIT: Duration = Duration::from_millis(20);
/// Packets are taken for lost when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(300);
const WARM_UP: Duration = Duration::from_millis(300);

struct Options {
    relay: SocketAddr,
    clients: usize,
    packet: usize,
    seconds: f64,
    rates: Vec<f64>,
    burst: usize,
}

fn options() -> Result<Options, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut given = HashMap::new();
    for pair in words.chunks(2) {
        let [name, value] = pair else {
            return Err(USAGE.to_owned());
        };
        given.insert(name.trim_start_matches("--").to_owned(), value.clone());
    }
    let number = |name: &str, default: f64| match given.get(name) {
        Some(text) => text
            .parse()
            .map_err(|_| format!("--{name} {text}: no number")),
        None => Ok(default),
    };
    let relay = given.get("relay").ok_or(USAGE)?;
    let rates = given.get("rates").map_or("0", String::as_str).split(',');
    let rates = rates.map(|text| {
        text.parse()
            .map_err(|_| format!("--rates {text}: no number"))
    });
    Ok(Options {
        relay: relay
            .parse()
            .map_err(|_| format!("--relay {relay}: no IP:PORT"))?,
        clients: (number("clients", 2.0)? as usize).max(2) & !1,
        packet: number("packet", 1280.0)? as usize,
        seconds: number("seconds", 2.0)?,
        rates: rates.collect::<Result<_, _>>()?,
        burst: (number("burst", 8.0)? as usize).max(1),
    })
}

struct Client {
    socket: mio::net::TcpStream,
    tls: ClientConnection,
    burst: Vec<u8>,
    writable: bool,
    sent: u64,
    records: Records,
}

/// Walks the headers of TLS records and counts what is in them.
#[derive(Default)]
struct Records {
    header: Vec<u8>,
    left: usize,
    content: u64,
}

impl Records {
    fn walk(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let step = self.left.min(bytes.len());
                self.left -= step;
                bytes = &bytes[step..];
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let [_, _, _, high, low] = self.header[..] {
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.content += self.left.saturating_sub(RECORD_EXTRA) as u64;
                self.header.clear();
            }
        }
    }
}

fn key(number: usize) -> RawKey {
    let mut key = [0x5a; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

/// Connect and log in, blocking.
fn connect(options: &Options, number: usize, config: &Arc<ClientConfig>) -> io::Result<Client> {
    let mut socket = TcpStream::connect(options.relay)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let name = ServerName::from(options.relay.ip());
    let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    tls.set_buffer_limit(None);
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    stream.write_all(&encode_request("relay", false))?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    let head = loop {
        let size = stream.read(&mut piece)?;
        answer.extend_from_slice(&piece[..size]);
        if size == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Some((head, status)) = parse_head_untrusted(&answer).map_err(io::Error::other)? {
            check_switched(status).map_err(io::Error::other)?;
            break head;
        }
    };
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let mut login = ClientLogin::new(key(number), nonce);
    let mut frames = FrameReader::new(MAX_CLIENT_FRAME);
    frames.push(&answer[head..]);
    'login: loop {
        while let Some((kind, payload)) = frames.next_frame().map_err(io::Error::other)? {
            match login.receive(kind, payload).map_err(io::Error::other)? {
                Step::Send(bytes) => stream.write_all(&bytes)?,
                Step::Done(_) => break 'login,
                Step::Wait => {}
            }
        }
        let size = stream.read(&mut piece)?;
        if size == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        frames.push(&piece[..size]);
    }
    let partner = public_key(&key(number ^ 1));
    let mut burst = Vec::new();
    for _ in 0..options.burst {
        push_send_packet(&mut burst, &partner, &vec![0x42; options.packet]);
    }
    socket.set_nonblocking(true)?;
    Ok(Client {
        socket: mio::net::TcpStream::from_std(socket),
        tls,
        burst,
        writable: true,
        sent: 0,
        records: Records::default(),
    })
}

impl Client {
    /// Write what waits; whether everything went.
    fn flush(&mut self) -> io::Result<bool> {
        while self.writable && self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) => return Err(error),
            }
        }
        Ok(!self.tls.wants_write())
    }

    fn send(&mut self, packets: usize, packet_len: usize) -> io::Result<()> {
        let bytes = packets * send_packet_len(packet_len);
        self.tls.writer().write_all(&self.burst[..bytes])?;
        self.sent += packets as u64;
        self.flush().map(|_| ())
    }

    fn read(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        loop {
            match self.socket.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(size) => {
                    self.records.walk(&scratch[..size]);
                    if size < scratch.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

struct Load {
    options: Options,
    poll: Poll,
    clients: Vec<Client>,
    scratch: Vec<u8>,
    next: usize,
}

impl Load {
    fn new(options: Options) -> io::Result<Self> {
        let config = Arc::new(client_config());
        let poll = Poll::new()?;
        let mut clients = Vec::new();
        for number in 0..options.clients {
            let mut client = connect(&options, number, &config)?;
            poll.registry().register(
                &mut client.socket,
                Token(number),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            clients.push(client);
        }
        Ok(Self {
            options,
            poll,
            clients,
            scratch: vec![0; 256 << 10],
            next: 0,
        })
    }

    fn turn(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        self.poll.poll(events, Some(timeout))?;
        for event in events.iter() {
            let client = &mut self.clients[event.token().0];
            client.writable |= event.is_writable();
            if event.is_readable() {
                client.read(&mut self.scratch)?;
            }
        }
        Ok(())
    }

    /// Send for a while at a rate, 0 for all that goes. Returns packets offered.
    fn run(&mut self, rate: f64, time: Duration) -> io::Result<f64> {
        let (burst, packet) = (self.options.burst, self.options.packet);
        let mut events = Events::with_capacity(1024);
        let began = Instant::now();
        let (mut then, mut credit, mut offered) = (began, 0.0, 0.0);
        while then - began < time {
            let now = Instant::now();
            if rate > 0.0 {
                let more = rate * (now - then).as_secs_f64();
                offered += more;
                credit = (credit + more).min(rate * CREDIT.as_secs_f64() + 1.0);
            } else {
                credit = f64::INFINITY;
            }
            then = now;
            let mut sent_any = false;
            for _ in 0..self.clients.len() {
                if credit < 1.0 {
                    break;
                }
                let client = &mut self.clients[self.next];
                self.next = (self.next + 1) % self.options.clients;
                if client.flush()? {
                    let packets = (credit.min(burst as f64)) as usize;
                    client.send(packets, packet)?;
                    credit -= packets as f64;
                    sent_any = true;
                }
            }
            let wait = if sent_any { 0 } else { 500 };
            self.turn(&mut events, Duration::from_micros(wait))?;
        }
        Ok(offered)
    }

    fn sent(&self) -> u64 {
        self.clients.iter().map(|client| client.sent).sum()
    }

    /// Bytes that each client got.
    fn shares(&self) -> Vec<u64> {
        let clients = self.clients.iter();
        clients.map(|client| client.records.content).collect()
    }

    fn received(&self) -> f64 {
        let bytes: u64 = self.shares().iter().sum();
        bytes as f64 / send_packet_len(self.options.packet) as f64
    }

    /// Let everything arrive that will.
    fn settle(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let (mut last, mut seen) = (Instant::now(), self.received());
        while last.elapsed() < QUIET {
            for client in &mut self.clients {
                client.flush()?;
            }
            self.turn(&mut events, Duration::from_millis(5))?;
            if self.received() > seen {
                (last, seen) = (Instant::now(), self.received());
            }
        }
        Ok(())
    }
}

fn measure(options: Options) -> io::Result<()> {
    let mut load = Load::new(options)?;
    for rate in load.options.rates.clone() {
        let before = load.shares();
        let sent_before = load.sent();
        load.run(rate, WARM_UP)?;
        let (began, sent, received) = (Instant::now(), load.sent(), load.received());
        let time = Duration::from_secs_f64(load.options.seconds);
        let offered = load.run(rate, time)?;
        let seconds = began.elapsed().as_secs_f64();
        let sent = (load.sent() - sent) as f64 / seconds;
        let delivered = (load.received() - received) / seconds;
        load.settle()?;
        let after = load.shares();
        let shares: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        let all = shares.iter().sum::<u64>() as f64;
        let least = shares.iter().min().copied().unwrap_or_default() as f64;
        let arrived = all / send_packet_len(load.options.packet) as f64;
        let lost = (1.0 - arrived / (load.sent() - sent_before) as f64).max(0.0);
        println!(
            "{{\"offered_pps\": {:.0}, \"sent_pps\": {sent:.0}, \"delivered_pps\": {delivered:.0}, \
             \"arrived\": {arrived:.0}, \"lost\": {lost:.6}, \"least_share\": {:.3}}}",
            if offered > 0.0 {
                offered / seconds
            } else {
                sent
            },
            least * shares.len() as f64 / all.max(1.0),
        );
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    let outcome = options().and_then(|options| {
        measure(options).map_err(|error| format!("the relay could not be loaded: {error}"))
    });
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("relay_load: {sentence}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn client_config() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider knows TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// Trusts any certificate: this program sends nothing that matters.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
