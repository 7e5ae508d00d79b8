//! Stands in for `webpki-roots` in the lab: trusts one authority whose key is no secret.
//!
//! The Rust client trusts only compiled-in roots and knows no pinned certificates, so a relay in
//! the lab can only be reached with a root of its own. `test_rust_client.py` holds the key.
#![no_std]

use pki_types::{Der, TrustAnchor};

pub const TLS_SERVER_ROOTS: &[TrustAnchor<'static>] = &[TrustAnchor {
    subject: Der::from_slice(SUBJECT),
    subject_public_key_info: Der::from_slice(PUBLIC_KEY),
    name_constraints: None,
}];

/// CN=Warren lab.
const SUBJECT: &[u8] = b"\
    \x31\x13\x30\x11\x06\x03\x55\x04\x03\x0c\x0a\x57\x61\x72\x72\x65\x6e\x20\x6c\x61\
    \x62";

/// P-256, private scalar 0x77617272656e.
const PUBLIC_KEY: &[u8] = b"\
    \x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\
    \x07\x03\x42\x00\x04\x40\x6c\x2a\x97\x51\xff\x98\x08\x8a\x1e\xb2\x24\x6a\xb4\x4a\
    \xba\x9e\x84\xda\xdd\x67\xc2\xee\x54\xc7\x12\xa2\x27\xa1\x31\x80\xc8\xd4\x1d\x87\
    \x81\x1b\x67\x4b\xc4\xf4\x54\x6a\x8e\xe9\x2e\x84\xe8\xc1\x09\x89\x0e\x0c\xb7\x03\
    \xa1\x4d\xfa\xb5\xbb\xb9\x7b\xb5\xd3";
