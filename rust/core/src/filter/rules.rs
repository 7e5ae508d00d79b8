//! Filter rules, compiled: per family and rule, merged sorted ranges of sources and the few
//! destinations; and, beside them, the protocols that are open to everyone.

use std::net::IpAddr;

use crate::packet::Parsed;
use crate::seam::{DstSpan, FilterRule, MalformedSeam, Span};

/// A set of IP protocol numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Protocols([u64; 4]);

impl Protocols {
    fn of(numbers: &[u8]) -> Self {
        let mut set = Self::default();
        numbers
            .iter()
            .for_each(|n| set.0[usize::from(*n) / 64] |= 1 << (n % 64));
        set
    }

    pub(super) fn has(&self, number: u8) -> bool {
        self.0[usize::from(number) / 64] & (1 << (number % 64)) != 0
    }

    fn add(&mut self, other: &Self) {
        self.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(mine, theirs)| *mine |= theirs);
    }
}

/// All rules in force.
#[derive(Debug, Default)]
pub(super) struct Rules {
    v4: Vec<Rule>,
    v6: Vec<Rule>,
    /// IPv4 protocols that anyone may send to any address and port.
    pub(super) open4: Protocols,
    /// The same for IPv6.
    pub(super) open6: Protocols,
}

/// One rule for one family; addresses as numbers.
#[derive(Debug)]
struct Rule {
    protocols: Protocols,
    /// Sorted, disjoint, inclusive.
    sources: Vec<(u128, u128)>,
    destinations: Vec<Destination>,
}

#[derive(Debug)]
struct Destination {
    first: u128,
    last: u128,
    first_port: u16,
    last_port: u16,
}

impl Destination {
    fn holds(&self, addr: u128) -> bool {
        self.first <= addr && addr <= self.last
    }

    fn all_ports(&self) -> bool {
        self.first_port == 0 && self.last_port == u16::MAX
    }
}

impl Rule {
    fn has_source(&self, addr: u128) -> bool {
        let after = self.sources.partition_point(|(first, _)| *first <= addr);
        after > 0 && addr <= self.sources[after - 1].1
    }

    /// Whether it lets everyone to every address and port of a family that ends at `highest`.
    fn is_open(&self, highest: u128) -> bool {
        self.sources == [(0, highest)]
            && self
                .destinations
                .iter()
                .any(|dst| dst.first == 0 && dst.last == highest && dst.all_ports())
    }
}

impl Rules {
    pub(super) fn compile(rules: &[FilterRule]) -> Result<Self, MalformedSeam> {
        let mut compiled = Self::default();
        for rule in rules {
            let protocols = Protocols::of(&rule.protocols);
            let (mut v4, mut v6) = (Rule::empty(protocols), Rule::empty(protocols));
            for span in &rule.sources {
                let (is_v4, first, last) = read_span(span)?;
                if is_v4 { &mut v4 } else { &mut v6 }
                    .sources
                    .push((first, last));
            }
            for DstSpan {
                span,
                first_port,
                last_port,
            } in &rule.destinations
            {
                let (is_v4, first, last) = read_span(span)?;
                let (first_port, last_port) = (*first_port, *last_port);
                let destination = Destination {
                    first,
                    last,
                    first_port,
                    last_port,
                };
                if is_v4 { &mut v4 } else { &mut v6 }
                    .destinations
                    .push(destination);
            }
            add(&mut compiled.v4, &mut compiled.open4, v4, u32::MAX.into());
            add(&mut compiled.v6, &mut compiled.open6, v6, u128::MAX);
        }
        Ok(compiled)
    }

    fn of_family(&self, parsed: &Parsed) -> &[Rule] {
        if parsed.src.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        }
    }

    fn any(&self, parsed: &Parsed, wants: impl Fn(&Rule, &Destination) -> bool) -> bool {
        let (src, dst) = (number(parsed.src), number(parsed.dst));
        self.of_family(parsed).iter().any(|rule| {
            rule.destinations
                .iter()
                .any(|to| to.holds(dst) && wants(rule, to))
                && rule.has_source(src)
        })
    }

    /// A rule names the protocol and the port.
    pub(super) fn admit_port(&self, parsed: &Parsed) -> bool {
        let ports = |to: &Destination| (to.first_port..=to.last_port).contains(&parsed.dst_port);
        self.any(parsed, |rule, to| {
            rule.protocols.has(parsed.protocol) && ports(to)
        })
    }

    /// A rule names the protocol and opens all ports.
    pub(super) fn admit_portless(&self, parsed: &Parsed) -> bool {
        self.any(parsed, |rule, to| {
            rule.protocols.has(parsed.protocol) && to.all_ports()
        })
    }

    /// Any rule joins the two addresses, whatever it names beside them.
    pub(super) fn join(&self, parsed: &Parsed) -> bool {
        self.any(parsed, |_, _| true)
    }
}

impl Rule {
    fn empty(protocols: Protocols) -> Self {
        Self {
            protocols,
            sources: Vec::new(),
            destinations: Vec::new(),
        }
    }
}

fn add(rules: &mut Vec<Rule>, open: &mut Protocols, mut rule: Rule, highest: u128) {
    if rule.sources.is_empty() || rule.destinations.is_empty() {
        return;
    }
    rule.sources = merged(std::mem::take(&mut rule.sources));
    if rule.is_open(highest) {
        open.add(&rule.protocols);
    }
    rules.push(rule);
}

/// Sort ranges and join those that touch.
fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut out: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => out.push((first, last)),
        }
    }
    out
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Whether it is IPv4, and its ends.
fn read_span(span: &Span) -> Result<(bool, u128, u128), MalformedSeam> {
    let parse = |text: &str| {
        text.parse::<IpAddr>()
            .map_err(|_| MalformedSeam(format!("a filter rule names {text:?}, no address")))
    };
    let (first, last) = (parse(&span.first)?, parse(&span.last)?);
    if first.is_ipv4() != last.is_ipv4() || first > last {
        return Err(MalformedSeam(format!(
            "a filter rule spans from {first} to {last}, which is no range"
        )));
    }
    Ok((first.is_ipv4(), number(first), number(last)))
}
