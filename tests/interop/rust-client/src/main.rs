//! Joins a network, answers HTTP on port 80 of its mesh address, and fetches one page from a peer.
//!
//! Usage: rust-client CONTROL_URL HOSTNAME KEY_FILE PEER_IP:PORT (auth key in $AUTH_KEY)

use std::{env, error::Error, net::SocketAddr, time::Duration};

use tailscale::{Config, Device};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PAGE: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\nhello from rust";
const ONE_TRY: Duration = Duration::from_secs(6);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, hostname, key_file, peer] = arguments.as_slice() else {
        return Err("usage: rust-client CONTROL_URL HOSTNAME KEY_FILE PEER_IP:PORT".into());
    };
    let peer: SocketAddr = peer.parse()?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut config = Config::default_with_key_file(key_file).await?;
    config.control_server_url = url.parse()?;
    config.requested_hostname = Some(hostname.clone());
    let device = Device::new(&config, env::var("AUTH_KEY").ok()).await?;
    let address = device.ipv4_addr().await?;
    println!("joined {address}");

    let listener = device.tcp_listen((address, 80).into()).await?;
    let serve = async {
        while let Ok(mut stream) = listener.accept().await {
            let mut request = [0; 2048];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(PAGE.as_bytes()).await;
            let _ = stream.flush().await;
            let _ = stream.shutdown().await;
        }
    };
    let client = async {
        loop {
            match tokio::time::timeout(ONE_TRY, fetch(&device, peer)).await {
                Ok(Ok(body)) if !body.is_empty() => break println!("got {body}"),
                Ok(Ok(_)) => println!("again: an empty answer"),
                Ok(Err(error)) => println!("again: {error}"),
                Err(_) => println!("again: no answer"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::join!(serve, client);
    Ok(())
}

async fn fetch(device: &Device, peer: SocketAddr) -> Result<String, Box<dyn Error>> {
    let mut stream = device.tcp_connect(peer).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    Ok(text.split("\r\n\r\n").nth(1).unwrap_or("").to_owned())
}
