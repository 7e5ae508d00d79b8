//! Allowed IPs: longest prefix wins, in both directions (WireGuard whitepaper §2).

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::str::FromStr;

/// An address prefix, masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: IpAddr,
    bits: u8,
}

/// Text that is no CIDR prefix; one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedPrefix(String);

impl fmt::Display for MalformedPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no address prefix", self.0)
    }
}

impl std::error::Error for MalformedPrefix {}

impl Prefix {
    /// The prefix of `bits` bits that holds `addr`; None when the family has fewer bits.
    #[must_use]
    pub fn new(addr: IpAddr, bits: u8) -> Option<Self> {
        let addr = match addr {
            IpAddr::V4(v4) if bits <= 32 => IpAddr::V4((u32::from(v4) & mask4(bits)).into()),
            IpAddr::V6(v6) if bits <= 128 => IpAddr::V6((u128::from(v6) & mask6(bits)).into()),
            _ => return None,
        };
        Some(Self { addr, bits })
    }

    /// Its lowest address.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Its length in bits.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether `addr` lies inside.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        Self::new(addr, self.bits).as_ref() == Some(self)
    }
}

impl FromStr for Prefix {
    type Err = MalformedPrefix;

    /// `192.0.2.0/24`, or an address alone for one host. Host bits are masked away.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || MalformedPrefix(text.to_owned());
        let (addr, bits) = match text.split_once('/') {
            Some((addr, bits)) => (addr, Some(bits.parse().map_err(|_| malformed())?)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| malformed())?;
        let whole = if addr.is_ipv4() { 32 } else { 128 };
        Self::new(addr, bits.unwrap_or(whole)).ok_or_else(malformed)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

fn mask4(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

fn mask6(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

/// Spreads an address over 64 bits. The table's keys come from the coordinator, not from
/// packets, so nobody can fill a bucket from outside.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }

    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64);
        self.write_u64((value >> 64) as u64);
    }
}

type Table<K, T> = HashMap<K, T, BuildHasherDefault<AddressHasher>>;

/// An immutable table from prefixes to values; a lookup costs one hash per prefix length in use.
#[derive(Debug)]
pub struct Routes<T> {
    /// Longest first.
    v4: Vec<(u8, Table<u32, T>)>,
    v6: Vec<(u8, Table<u128, T>)>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self {
            v4: Vec::new(),
            v6: Vec::new(),
        }
    }
}

impl<T> Routes<T> {
    /// Build from prefixes; of two equal ones the later wins.
    pub fn new(entries: impl IntoIterator<Item = (Prefix, T)>) -> Self {
        let mut routes = Self::default();
        for (prefix, value) in entries {
            match prefix.addr {
                IpAddr::V4(v4) => insert(&mut routes.v4, prefix.bits, v4.into(), value),
                IpAddr::V6(v6) => insert(&mut routes.v6, prefix.bits, v6.into(), value),
            }
        }
        routes
    }

    /// The value of the longest prefix that holds `addr`.
    #[must_use]
    pub fn lookup(&self, addr: IpAddr) -> Option<&T> {
        match addr {
            IpAddr::V4(v4) => {
                let addr = u32::from(v4);
                self.v4
                    .iter()
                    .find_map(|(bits, table)| table.get(&(addr & mask4(*bits))))
            }
            IpAddr::V6(v6) => {
                let addr = u128::from(v6);
                self.v6
                    .iter()
                    .find_map(|(bits, table)| table.get(&(addr & mask6(*bits))))
            }
        }
    }
}

fn insert<K: std::hash::Hash + Eq, T>(
    tables: &mut Vec<(u8, Table<K, T>)>,
    bits: u8,
    key: K,
    value: T,
) {
    let at = match tables.binary_search_by(|(have, _)| bits.cmp(have)) {
        Ok(at) => at,
        Err(at) => {
            tables.insert(at, (bits, Table::default()));
            at
        }
    };
    tables[at].1.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_prefix_wins() {
        let table = [
            ("0.0.0.0/0", 1),
            ("10.0.0.0/8", 2),
            ("10.1.0.0/16", 3),
            ("10.1.2.3", 4),
            ("::/0", 5),
            ("fd7a:115c:a1e0::/48", 6),
            ("fd7a:115c:a1e0::7/128", 7),
        ];
        let routes = Routes::new(table.map(|(text, value)| (text.parse().unwrap(), value)));
        for (addr, expected) in [
            ("192.0.2.1", 1),
            ("10.2.0.1", 2),
            ("10.1.9.9", 3),
            ("10.1.2.3", 4),
            ("2001:db8::1", 5),
            ("fd7a:115c:a1e0::8", 6),
            ("fd7a:115c:a1e0::7", 7),
        ] {
            assert_eq!(
                routes.lookup(addr.parse().unwrap()),
                Some(&expected),
                "{addr}"
            );
        }
        assert_eq!(
            Routes::<u8>::default().lookup("10.0.0.1".parse().unwrap()),
            None
        );
    }

    #[test]
    fn prefixes_are_masked_and_checked() {
        let prefix: Prefix = "10.1.2.3/8".parse().unwrap();
        assert_eq!(prefix.to_string(), "10.0.0.0/8");
        assert!(prefix.contains("10.255.0.1".parse().unwrap()));
        assert!(!prefix.contains("11.0.0.1".parse().unwrap()));
        assert!(!prefix.contains("::1".parse().unwrap()));
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/x",
            "host/8",
            "1/2/3",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
