//! The wide code against published vectors and against ring, which wrote none of it.

use super::*;

/// splitmix64: these tests need variety, not secrecy.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Now and then all zeros or all ones, where carries are.
    fn fill(&mut self, bytes: &mut [u8]) {
        match self.below(8) {
            0 => bytes.fill(0xff),
            1 => bytes.fill(0),
            _ => bytes.fill_with(|| self.next() as u8),
        }
    }
}

fn layout(lengths: &[usize], counter: u64, gap: usize) -> (Vec<u8>, Vec<Message>) {
    let mut end = gap;
    let messages = lengths
        .iter()
        .enumerate()
        .map(|(index, len)| {
            let message = Message {
                counter: counter.wrapping_add(index as u64),
                start: end,
                len: *len,
            };
            end = message.tag().end + gap;
            message
        })
        .collect();
    (vec![0; end], messages)
}

/// Seals and opens with both; what lies between the messages must stay as it was.
fn agree(dice: &mut Dice, lengths: &[usize]) {
    let mut raw = [0; 32];
    dice.fill(&mut raw);
    let key = || Key::new(&raw).unwrap();
    let (wide, narrow) = match dice.below(3) {
        0 => (key(), key().one_by_one()),
        _ => (key().always_wide(), key().one_by_one()),
    };
    let (mut plain, messages) = layout(lengths, dice.next() >> 1, dice.below(40));
    dice.fill(&mut plain);
    let (mut one, mut other) = (plain.clone(), plain.clone());
    wide.seal(&mut one, &messages);
    narrow.seal(&mut other, &messages);
    assert!(one == other, "sealed {lengths:?}");
    for message in &messages {
        plain[message.tag()].copy_from_slice(&one[message.tag()]);
    }
    let mut authentic = vec![false; messages.len()];
    wide.open(&mut one, &messages, &mut authentic);
    assert!(authentic.iter().all(|ok| *ok), "opened {lengths:?}");
    assert!(one == plain, "opened {lengths:?}");
}

#[test]
fn every_length_agrees_with_ring() {
    let mut dice = Dice(1);
    for length in 0..=2_100 {
        agree(&mut dice, &[length, length]);
        agree(&mut dice, &[length; 8]);
    }
}

#[test]
fn batches_of_mixed_lengths_agree_with_ring() {
    let mut dice = Dice(2);
    for round in 0..10 {
        for count in 1..=70 {
            let lengths: Vec<_> = (0..count)
                .map(|_| match (round + dice.below(3)) % 4 {
                    0 => 1_280,
                    1 => dice.below(2_101),
                    2 => dice.below(200),
                    _ => dice.below(130) * 16,
                })
                .collect();
            agree(&mut dice, &lengths);
        }
    }
}

#[test]
fn what_was_changed_is_refused_and_not_decrypted() {
    let mut dice = Dice(3);
    for round in 0..600 {
        let lengths: Vec<_> = (0..=dice.below(40)).map(|_| dice.below(1_500)).collect();
        let mut raw = [0; 32];
        dice.fill(&mut raw);
        let mut key = Key::new(&raw).unwrap();
        if round % 2 == 0 {
            key = key.always_wide();
        }
        let (mut plain, mut messages) = layout(&lengths, dice.next() >> 1, 3);
        dice.fill(&mut plain);
        let mut buffer = plain.clone();
        key.seal(&mut buffer, &messages);
        let victim = dice.below(messages.len());
        let message = messages[victim];
        match round % 3 {
            0 => messages[victim].counter ^= 1 << dice.below(64),
            1 => buffer[message.tag()][dice.below(TAG_BYTES)] ^= 1 << dice.below(8),
            _ => buffer[message.start..message.tag().end][dice.below(message.len + 16)] ^= 0x40,
        }
        let sealed = buffer.clone();
        let mut authentic = vec![true; messages.len()];
        key.open(&mut buffer, &messages, &mut authentic);
        for (index, message) in messages.iter().enumerate() {
            assert_eq!(authentic[index], index != victim);
            let text = &buffer[message.text()];
            if index != victim {
                assert_eq!(text, &plain[message.text()]);
            } else {
                let untouched = text == &sealed[message.text()];
                assert!(untouched || text.iter().all(|byte| *byte == 0));
            }
        }
    }
}

/// Lengths and places are the caller's to get right; a wrong one must not go unnoticed.
#[test]
fn messages_outside_the_buffer_panic() {
    let key = Key::new(&[1; 32]).unwrap().always_wide();
    let message = Message {
        counter: 0,
        start: 10,
        len: 100,
    };
    let short = std::panic::catch_unwind(|| key.seal(&mut [0; 125], &[message, message]));
    assert!(short.is_err());
}

/// Vectors by others (Wycheproof, which has those of RFC 8439 too): those without associated
/// data, which are all valid, and each with its tag changed; alone and among others.
#[test]
fn wycheproof() {
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};

    let set = TestSet::load(TestName::ChaCha20Poly1305).unwrap();
    let mut seen = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let (Ok(raw), Some((prefix, counter))) = (
            <&[u8; 32]>::try_from(&test.key[..]),
            test.nonce.split_first_chunk::<4>(),
        ) else {
            continue;
        };
        let Ok(counter) = <[u8; 8]>::try_from(counter) else {
            continue;
        };
        if !test.aad.is_empty() {
            continue;
        }
        assert!(test.result == TestResult::Valid);
        seen += 1;
        let key = Key::new(raw).unwrap().prefix(*prefix).always_wide();
        for count in [1, 2, 9] {
            let lengths = vec![test.pt.len(); count];
            let (mut buffer, mut messages) = layout(&lengths, 0, 1);
            for message in &mut messages {
                message.counter = u64::from_le_bytes(counter);
                buffer[message.text()].copy_from_slice(&test.ct);
                buffer[message.tag()].copy_from_slice(&test.tag);
            }
            let sealed = buffer.clone();
            let mut authentic = vec![false; count];
            key.open(&mut buffer, &messages, &mut authentic);
            assert!(authentic.iter().all(|ok| *ok), "{}", test.tc_id);
            for message in &messages {
                assert_eq!(&buffer[message.text()], &test.pt[..]);
            }
            key.seal(&mut buffer, &messages);
            assert!(buffer == sealed, "{}", test.tc_id);
            buffer[messages[count - 1].tag()][15] ^= 1;
            key.open(&mut buffer, &messages, &mut authentic);
            assert_eq!(authentic.iter().filter(|ok| !**ok).count(), 1);
            assert!(!authentic[count - 1]);
        }
    }
    assert!(seen >= 40, "{seen}");
}

/// Two of RFC 8439's own: §2.3.2 and the first of §A.1.
#[cfg(target_arch = "x86_64")]
#[test]
fn keystream_of_the_rfc() {
    if !available() {
        return;
    }
    let mut key: Words = [0; 9];
    // SAFETY: the instructions were found.
    let zero = unsafe { chacha::keystream(&key, 0, 0) };
    assert_eq!(
        zero[0][..8],
        [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]
    );
    for (word, index) in key.iter_mut().zip(0..8_u32) {
        *word = 0x0302_0100 + index * 0x0404_0404;
    }
    key[8] = 0x0900_0000;
    // SAFETY: as above.
    let stream = unsafe { chacha::keystream(&key, 1, 0x4a00_0000) };
    assert_eq!(
        stream[0][..8],
        [0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b, 0x59, 0x15]
    );
}
