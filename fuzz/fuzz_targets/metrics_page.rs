//! A backend's `/metrics` of any text, read twice as a scraper does: what is found is a number that can be used.

#![no_main]

use std::time::{Duration, Instant};

use evenkeel::config::Engine;
use evenkeel::resources::profile::{Before, Profile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((first, text)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let engine = Engine::ALL[usize::from(*first) % Engine::ALL.len()];
    let (profile, mut before, now) = (Profile::new(engine, &[]), Before::default(), Instant::now());
    let (earlier, later) = text.split_at(text.floor_char_boundary(text.len() / 2));
    for (at, page) in [earlier, later, &*text].into_iter().enumerate() {
        let reading = profile.read(page, &mut before, now + Duration::from_secs(at as u64));
        for share in [reading.cpu, reading.memory].into_iter().flatten() {
            assert!((0.0..=1.0).contains(&share), "{reading:?}");
        }
        for count in [reading.running, reading.waiting].into_iter().flatten() {
            assert!(count.is_finite() && count >= 0.0, "{reading:?}");
        }
    }
});
