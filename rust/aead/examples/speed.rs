//! How fast one core seals and opens, by the size of packets and of batches:
//! `cargo run --release -p warren-aead --example speed`.

use std::time::{Duration, Instant};

use warren_aead::{Key, Message, TAG_BYTES};

const SIZES: [usize; 4] = [64, 512, 1_280, 1_424];
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 50];

/// The best of many short runs, in GB/s of text: other work on the machine only slows.
fn best(bytes: usize, mut batch: impl FnMut()) -> f64 {
    let mut best = 0_f64;
    let end = Instant::now() + Duration::from_millis(150);
    while Instant::now() < end {
        let began = Instant::now();
        let rounds = 200_000 / bytes + 1;
        for _ in 0..rounds {
            batch();
        }
        best = best.max((rounds * bytes) as f64 / began.elapsed().as_nanos() as f64);
    }
    best
}

fn main() {
    let key = || Key::new(&[7; 32]).expect("32 bytes");
    for (name, key) in [("one by one", key().one_by_one()), ("side by side", key())] {
        println!("{name}, GB/s (seal, open)");
        print!("{:>8}", "bytes");
        BATCHES.iter().for_each(|count| print!("{count:>13}"));
        println!();
        for size in SIZES {
            print!("{size:>8}");
            for count in BATCHES {
                let messages: Vec<_> = (0..count)
                    .map(|index| Message {
                        counter: index as u64,
                        start: index * (size + TAG_BYTES),
                        len: size,
                    })
                    .collect();
                let mut buffer = vec![0; count * (size + TAG_BYTES)];
                let sealing = best(size * count, || key.seal(&mut buffer, &messages));
                let sealed = buffer.clone();
                let mut fresh = sealed.clone();
                let mut authentic = vec![false; count];
                let copying = best(size * count, || fresh.copy_from_slice(&sealed));
                let opening = best(size * count, || {
                    fresh.copy_from_slice(&sealed);
                    key.open(&mut fresh, &messages, &mut authentic);
                });
                let opening = 1.0 / (1.0 / opening - 1.0 / copying);
                print!("  {sealing:5.2} {opening:5.2}");
            }
            println!();
        }
    }
}
