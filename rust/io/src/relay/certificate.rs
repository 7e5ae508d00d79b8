//! The certificate of the TLS ports, and the other one that proves a name to an ACME server.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys, ServerConfig};

/// The protocol by which an ACME server asks for a proof (RFC 8737 §6.2).
const ACME: &[u8] = b"acme-tls/1";
/// Said beside it: who offers protocols and finds none of them here would be refused.
const HTTP: &[u8] = b"http/1.1";

/// What new connections are shown; may change at any time.
pub(super) struct Certificates {
    provider: Arc<CryptoProvider>,
    given: Mutex<Given>,
    config: ArcSwapOption<ServerConfig>,
}

#[derive(Default)]
struct Given {
    usual: Option<Arc<CertifiedKey>>,
    proof: Option<(String, Arc<CertifiedKey>)>,
}

impl Certificates {
    pub(super) fn new() -> Self {
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            given: Mutex::default(),
            config: ArcSwapOption::empty(),
        }
    }

    /// The configuration for a new connection; `None` before there is a certificate.
    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.config.load_full()
    }

    /// Show this chain (PEM, leaf first) from now on. The error is one sentence.
    pub(super) fn set(&self, chain: &[u8], key: &[u8]) -> Result<(), String> {
        let usual = self.pair(chain, key)?;
        let mut given = self.given.lock();
        given.usual = Some(usual);
        self.rebuild(&given)
    }

    /// Show this chain to whoever asks for `host` with ACME's protocol; an empty one: no more.
    pub(super) fn set_proof(&self, host: &str, chain: &[u8], key: &[u8]) -> Result<(), String> {
        let proof = if chain.is_empty() {
            None
        } else {
            Some((host.to_owned(), self.pair(chain, key)?))
        };
        let mut given = self.given.lock();
        given.proof = proof;
        self.rebuild(&given)
    }

    fn pair(&self, chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| "the certificate file holds no PEM certificate".to_owned())?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| "the key file holds no PEM private key without a password".to_owned())?;
        let told = |error| format!("the certificate and its key do not fit together: {error}");
        let key = self.provider.key_provider.load_private_key(key);
        let pair = CertifiedKey::new(chain, key.map_err(told)?);
        match pair.keys_match() {
            // A proof has an extension that is critical and that no verifier knows (RFC 8737 §3).
            Err(Error::InvalidCertificate(CertificateError::Other(_))) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            outcome => outcome.map_err(told)?,
        }
        Ok(Arc::new(pair))
    }

    fn rebuild(&self, given: &Given) -> Result<(), String> {
        let Some(usual) = &given.usual else {
            return Ok(());
        };
        let choice = Choice {
            usual: usual.clone(),
            proof: given.proof.clone(),
        };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(choice));
        // A resumed session would carry no certificates, and clients look for the relay's key
        // in them; connections here are long.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if given.proof.is_some() {
            config.alpn_protocols = vec![ACME.to_vec(), HTTP.to_vec()];
        }
        self.config.store(Some(Arc::new(config)));
        Ok(())
    }
}

struct Choice {
    usual: Arc<CertifiedKey>,
    proof: Option<(String, Arc<CertifiedKey>)>,
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Choice")
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some((host, proof)) = &self.proof
            && hello.server_name() == Some(host)
            && hello
                .alpn()
                .is_some_and(|mut offered| offered.any(|name| name == ACME))
        {
            return Some(proof.clone());
        }
        Some(self.usual.clone())
    }
}
