//! The inbound packet filter with reply tracking (PROTOCOL §3.8, runtime semantics).
//!
//! * TCP is judged by the segment that opens a connection; every other segment comes in.
//! * UDP and SCTP come in by rule, or as the reply to what went out (bounded memory of flows).
//! * ICMP replies and errors come in; other ICMP does where any rule joins the two addresses.
//! * TSMP always comes in. Any other protocol needs a rule that opens all ports.
//! * Later fragments come in unless they could overwrite a transport header.
//! * What goes out is never filtered.

mod flows;
mod rules;

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;

use self::flows::{Flow, Flows};
use self::rules::Rules;
use crate::packet::{Parsed, parse_untrusted, proto};
use crate::seam::{FilterRule, MalformedSeam};

/// Fragments nearer to the start than this could overlap the longest transport header that rules
/// are judged by: 60 bytes of IPv4 options are behind us, TCP's 20 are not (RFC 1858, RFC 3128).
const FRAGMENT_MIN_BYTES: usize = 80;

/// Why the filter dropped a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No rule lets it in, or it is for a multicast or link-local address, which no rule can.
    NoRule,
    /// Not an IP packet, or one that contradicts itself.
    Malformed,
    /// A fragment that could overwrite a transport header.
    Fragment,
}

/// The filter in force and the flows that may be answered; shared by all threads.
pub struct Gate {
    rules: ArcSwap<Rules>,
    flows: Mutex<Flows>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A gate that lets in nothing but replies.
    #[must_use]
    pub fn new() -> Self {
        Self {
            rules: ArcSwap::default(),
            flows: Mutex::default(),
        }
    }

    /// Replace the rules (off the packet path). With `shields_up` only replies come in. Flows
    /// that were noted live on.
    ///
    /// # Errors
    /// [`MalformedSeam`] when a span is no pair of addresses of one family; the old rules stay.
    pub fn set(&self, rules: &[FilterRule], shields_up: bool) -> Result<(), MalformedSeam> {
        let compiled = Rules::compile(rules)?;
        self.rules.store(
            if shields_up {
                Rules::default()
            } else {
                compiled
            }
            .into(),
        );
        Ok(())
    }

    /// Whether an opened inbound packet may come in.
    ///
    /// # Errors
    /// Why not.
    pub fn check_in(&self, packet: &[u8]) -> Result<(), Refusal> {
        let rules = self.rules.load();
        if is_open_to(&rules, packet) {
            return Ok(());
        }
        let parsed = parse_untrusted(packet).map_err(|_| Refusal::Malformed)?;
        if !is_in_scope(parsed.dst) {
            return Err(Refusal::NoRule);
        }
        if parsed.later_fragment {
            let harmless = parsed.fragment_at >= FRAGMENT_MIN_BYTES;
            return if harmless {
                Ok(())
            } else {
                Err(Refusal::Fragment)
            };
        }
        if self.admits(&rules, &parsed) {
            Ok(())
        } else {
            Err(Refusal::NoRule)
        }
    }

    fn admits(&self, rules: &Rules, parsed: &Parsed) -> bool {
        match parsed.protocol {
            proto::TSMP => true,
            proto::TCP => !parsed.is_tcp_open() || rules.admit_port(parsed),
            proto::UDP | proto::SCTP => self.is_reply(parsed) || rules.admit_port(parsed),
            proto::ICMP if parsed.src.is_ipv4() => is_icmp_reply(parsed) || rules.join(parsed),
            proto::ICMPV6 if parsed.src.is_ipv6() => is_icmp_reply(parsed) || rules.join(parsed),
            _ => rules.admit_portless(parsed),
        }
    }

    /// Note an outbound packet, so that its replies come in (UDP and SCTP). Call it with the
    /// first segment of a super-packet. Costs one atomic load while the rules let all of them in.
    pub fn note_out(&self, packet: &[u8]) {
        let tracked = |protocol| matches!(protocol, proto::UDP | proto::SCTP);
        // Extension headers are rare: only then the first protocol number is not the upper one.
        let plain = match packet.first().map(|byte| byte >> 4) {
            Some(4) => packet.get(9).copied(),
            Some(6) => packet.get(6).copied().filter(|next| !is_extension(*next)),
            _ => return,
        };
        if plain.is_some_and(|protocol| !tracked(protocol))
            || is_open_to(&self.rules.load(), packet)
        {
            return;
        }
        if let Ok(parsed) = parse_untrusted(packet)
            && tracked(parsed.protocol)
            && !parsed.later_fragment
        {
            self.flows
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .note(Flow::answering(&parsed));
        }
    }

    fn is_reply(&self, parsed: &Parsed) -> bool {
        self.flows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .has(&Flow::of(parsed))
    }
}

/// Whether the rules let in every packet of this protocol and family, so that nothing else needs
/// to be read.
fn is_open_to(rules: &Rules, packet: &[u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            rules.open4.has(packet[9]) && packet[16] < 224 && packet[16..18] != [169, 254]
        }
        Some(6) if packet.len() >= 40 => {
            rules.open6.has(packet[6])
                && packet[24] != 0xff
                && !(packet[24] == 0xfe && packet[25] & 0xc0 == 0x80)
        }
        _ => false,
    }
}

fn is_in_scope(dst: IpAddr) -> bool {
    match dst {
        IpAddr::V4(v4) => v4.octets()[0] < 224 && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unicast_link_local(),
    }
}

fn is_icmp_reply(parsed: &Parsed) -> bool {
    parsed.is_echo_reply() || parsed.is_icmp_error()
}

fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 44 | 51 | 60 | 135)
}

#[cfg(test)]
mod policies;
#[cfg(test)]
mod tests;
