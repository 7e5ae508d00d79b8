//! How much more room TLS asks for when what it was given is too small.

use rustls::unbuffered::{EncodeError, EncryptError, InsufficientSizeError};

/// For a handshake record; None when more room is no help.
pub(crate) fn encode_missing(error: &EncodeError) -> Option<usize> {
    match error {
        EncodeError::InsufficientSize(InsufficientSizeError { required_size, .. }) => {
            Some(*required_size)
        }
        EncodeError::AlreadyEncoded => None,
    }
}

/// The same for application data.
pub(crate) fn encrypt_missing(error: &EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(InsufficientSizeError { required_size, .. }) => {
            Some(*required_size)
        }
        EncryptError::EncryptExhausted => None,
    }
}
