//! Whole policies, as Python compiles them, against packets with the verdict of a plain reading
//! (`tests/property/test_policy_packets.py` draws them and keeps them true).

use serde_json::Value;

use super::*;
use crate::seam::{Command, decode_commands};

fn bytes(hex: &Value) -> Vec<u8> {
    let text = hex.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn the_gate_lets_in_what_the_policy_says() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/policy-packets.jsonl"
    );
    let text = std::fs::read_to_string(path).expect("the samples lie in tests/vectors");
    let mut tried = 0;
    for (number, line) in text.lines().enumerate() {
        let case: Value = serde_json::from_str(line).unwrap();
        let batch = decode_commands(&bytes(&case["commands"])).unwrap();
        let [Command::SetFilter { rules, shields_up }] = &batch.commands[..] else {
            panic!("one SetFilter a line");
        };
        let gate = Gate::new();
        gate.set(rules, *shields_up).unwrap();
        for packet in case["packets"].as_array().unwrap() {
            let data = bytes(&packet[0]);
            let wanted = packet[1].as_bool().unwrap();
            assert_eq!(
                gate.check_in(&data).is_ok(),
                wanted,
                "line {number}: {data:02x?}"
            );
            tried += 1;
        }
    }
    assert!(tried > 500);
}
