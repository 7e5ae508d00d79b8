//! How a relay's certificate is judged: by its name, by a pin, or (in labs) not at all.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use warren_core::seam::RelayNode;

/// Makes TLS configurations; the system's root certificates are read once, when first needed.
pub(super) struct Judge {
    provider: Arc<CryptoProvider>,
    roots: OnceLock<Arc<RootCertStore>>,
}

impl Judge {
    pub(super) fn new() -> Self {
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            roots: OnceLock::new(),
        }
    }

    /// The configuration for connections to `node`; the error is one sentence.
    pub(super) fn config(&self, node: &RelayNode) -> Result<Arc<ClientConfig>, String> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match (&node.cert_sha256, node.insecure) {
            (None, false) => builder.with_root_certificates(self.roots()),
            (pin, _) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(LeafOnly {
                    pin: pin.as_ref().map(|pin| pin.as_slice().to_vec()),
                    provider: self.provider.clone(),
                })),
        };
        let mut config = builder.with_no_client_auth();
        // A resumed session would carry no certificates: neither pin nor relay key to look at.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// The system's roots, or Mozilla's where the system has none.
    fn roots(&self) -> Arc<RootCertStore> {
        let load = || {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
            Arc::new(roots)
        };
        self.roots.get_or_init(load).clone()
    }
}

/// Looks at the leaf alone: its SHA-256 when there is a pin, and always that the server holds
/// its private key. Name and dates do not count.
struct LeafOnly {
    pin: Option<Vec<u8>>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for LeafOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafOnly")
            .field("pinned", &self.pin.is_some())
            .finish()
    }
}

impl ServerCertVerifier for LeafOnly {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(pin) = &self.pin else {
            return Ok(ServerCertVerified::assertion());
        };
        let digest = ring::digest::digest(&ring::digest::SHA256, leaf);
        if digest.as_ref() == pin.as_slice() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            leaf,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            leaf,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
