//! Sticky sessions: which backend a session is pinned to, and what keeps the pin.
//!
//! `cookie`: the pin is in a cookie of ours, signed with HMAC-SHA256 over the backend's identity (a hash of its name, never
//! its address), the time of issue and of last use. We keep nothing, so pins survive reload and (given a `secret_file`)
//! restart, and any number of balancers with the same secret agree. A forged or expired cookie is no session.
//!
//! `header` and `source_ip`: the pin is in a bounded table. A hash over the backends would need no table, but it would
//! ignore the base strategy and would move sessions of untouched backends whenever one is added; the table moves only the
//! sessions of a backend that leaves. It survives reloads, not restarts.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use http::HeaderValue;

use super::BackendSet;
use crate::backend::{Backend, HealthState};
use crate::config::{AdminState, SameSite, StickyMode, StickyPlan};

/// First byte of every cookie: raised when its layout changes.
const VERSION: u8 = 1;
/// Version, identity, issued, used.
const PAYLOAD: usize = 1 + 8 + 8 + 8;
/// Bytes of the signature that are kept: 128 bits cannot be guessed.
const SIGNATURE: usize = 16;
/// Length of a cookie's value, in hex digits.
const VALUE: usize = 2 * (PAYLOAD + SIGNATURE);
/// Cookies of our name that are looked at in one request: each costs a signature.
const MOST_COOKIES: usize = 8;
/// Shards of the table: workers rarely meet.
const SHARDS: usize = 16;
/// Sessions per shard, 64 Ki in all at some 100 bytes each; beyond, the longest unused of a few is forgotten.
const MOST_PER_SHARD: usize = 4096;
/// How many entries are looked at to find one to forget.
const EVICTION_SAMPLE: usize = 16;

/// The affinity of one pool.
pub struct Sticky {
    plan: StickyPlan,
    key: hmac::Key,
    shards: [Mutex<Shard>; SHARDS],
    hasher: std::hash::RandomState,
}

type Shard = HashMap<u64, Pin>;

impl std::fmt::Debug for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sticky").field("mode", &self.plan.mode).finish_non_exhaustive()
    }
}

/// To which backend, since when, and when last. Times in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// The backend's `name_hash`.
    pub identity: u64,
    /// When the session began.
    pub issued: u64,
    /// When it was last used, as far as the pin knows.
    pub used: u64,
}

/// One request's session.
#[derive(Debug)]
pub struct Session {
    sticky: Arc<Sticky>,
    /// Key in the table, for the modes that have one.
    key: Option<u64>,
    pin: Option<Pin>,
}

/// What became of a session when a backend took its request.
#[derive(Debug)]
pub struct Settled {
    /// It was pinned to this backend already (`Some(true)`), to another (`Some(false)`), or is new (`None`).
    pub kept: Option<bool>,
    /// The `Set-Cookie` to send, when the client's cookie is missing, wrong or ageing.
    pub cookie: Option<HeaderValue>,
}

impl Sticky {
    /// The affinity that `plan` describes in place of the `present` one: as far as its settings allow, sessions live on.
    pub fn succeeding(present: &Self, pool: &str, plan: &StickyPlan) -> Self {
        let was = &present.plan;
        let mut new = Self::new(pool, plan);
        if (&was.secret, was.mode) == (&plan.secret, plan.mode) && plan.secret.is_none() {
            new.key = present.key.clone();
        }
        // The same header or address may be hashed again only with the same keys.
        if (&was.name, was.mode) == (&plan.name, plan.mode) {
            new.hasher = present.hasher.clone();
            for (new, old) in new.shards.iter_mut().zip(&present.shards) {
                let old = old.lock().unwrap_or_else(PoisonError::into_inner);
                new.get_mut().unwrap_or_else(PoisonError::into_inner).clone_from(&old);
            }
        }
        new
    }

    /// The affinity that `plan` describes. Without a secret one is made, and a warning says what that means.
    pub fn new(pool: &str, plan: &StickyPlan) -> Self {
        let secret = plan.secret.as_ref().map(crate::config::Secret::read);
        let secret = match secret {
            Some(Ok(secret)) => secret,
            Some(Err(error)) => {
                tracing::error!(pool, "sticky.secret_file cannot be read, sessions do not survive a restart: {error}");
                random_secret()
            }
            None => {
                if plan.mode == StickyMode::Cookie {
                    tracing::warn!(pool, "sticky.secret_file is not set: sessions do not survive a restart");
                }
                random_secret()
            }
        };
        Self {
            plan: plan.clone(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            shards: Default::default(),
            hasher: std::hash::RandomState::new(),
        }
    }

    /// What it was made from.
    pub fn plan(&self) -> &StickyPlan {
        &self.plan
    }

    /// The session that `text` (the cookie's or header's value, or the client's address) stands for.
    pub fn session(self: &Arc<Self>, text: Option<&[u8]>, now: u64) -> Session {
        let (key, pin) = match (self.plan.mode, text) {
            (_, None) => (None, None),
            (StickyMode::Cookie, Some(value)) => (None, self.verify(value)),
            (StickyMode::Header | StickyMode::SourceIp, Some(value)) => {
                // Keyed at random in each process, so that nobody can aim at a collision.
                let key = self.hasher.hash_one(value);
                (Some(key), self.shard(key).get(&key).copied())
            }
        };
        // A clock that was set back makes cookies from the future. They bear our signature all the same, and a session is no
        // right: it begins anew now.
        let pin = pin.map(|pin| Pin { issued: pin.issued.min(now), used: pin.used.min(now), ..pin });
        let alive = |pin: &Pin| {
            now.saturating_sub(pin.used) <= self.plan.idle.as_secs()
                && now.saturating_sub(pin.issued) <= self.plan.life.as_secs()
        };
        Session { sticky: Arc::clone(self), key, pin: pin.filter(alive) }
    }

    /// The first session that one of these cookie values stands for. Browsers send all they have of one name, such as one of
    /// a parent domain that somebody else set.
    pub fn session_among<'a>(self: &Arc<Self>, values: impl Iterator<Item = &'a [u8]>, now: u64) -> Session {
        let mut sessions = values.take(MOST_COOKIES).map(|value| self.session(Some(value), now));
        sessions.find(|session| session.pin.is_some()).unwrap_or_else(|| self.session(None, now))
    }

    fn shard(&self, key: u64) -> std::sync::MutexGuard<'_, Shard> {
        let shard = &self.shards[(key % SHARDS as u64) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, key: u64, pin: Pin) {
        let mut shard = self.shard(key);
        if shard.len() >= MOST_PER_SHARD && !shard.contains_key(&key) {
            let oldest = shard.iter().take(EVICTION_SAMPLE).min_by_key(|(_, pin)| pin.used).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                shard.remove(&oldest);
            }
        }
        shard.insert(key, pin);
    }

    /// The value of a cookie for `pin`.
    fn sign(&self, pin: &Pin) -> String {
        let mut bytes = [0u8; PAYLOAD];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&pin.identity.to_be_bytes());
        bytes[9..17].copy_from_slice(&pin.issued.to_be_bytes());
        bytes[17..25].copy_from_slice(&pin.used.to_be_bytes());
        let tag = hmac::sign(&self.key, &bytes);
        let mut value = String::with_capacity(VALUE);
        for byte in bytes.iter().chain(tag.as_ref().iter().take(SIGNATURE)) {
            value.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            value.push(char::from_digit(u32::from(byte & 0xF), 16).unwrap_or('0'));
        }
        value
    }

    /// The pin of a cookie's value, if we signed it.
    fn verify(&self, value: &[u8]) -> Option<Pin> {
        let digits: &[u8; VALUE] = value.try_into().ok()?;
        let mut bytes = [0u8; PAYLOAD + SIGNATURE];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| (pair[at] as char).to_digit(16);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        let (payload, signature) = bytes.split_at(PAYLOAD);
        let tag = hmac::sign(&self.key, payload);
        aws_lc_rs::constant_time::verify_slices_are_equal(tag.as_ref().get(..SIGNATURE)?, signature).ok()?;
        let number = |from: usize| payload.get(from..from + 8)?.try_into().ok().map(u64::from_be_bytes);
        (payload[0] == VERSION).then_some(())?;
        Some(Pin { identity: number(1)?, issued: number(9)?, used: number(17)? })
    }

    fn cookie(&self, pin: &Pin, secure: bool, now: u64) -> Option<HeaderValue> {
        let left = self.plan.life.as_secs().saturating_sub(now.saturating_sub(pin.issued));
        let age = self.plan.idle.as_secs().min(left);
        let same_site = match self.plan.same_site {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        };
        let secure = if secure { "; Secure" } else { "" };
        let (name, value) = (&self.plan.name, self.sign(pin));
        let text = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite={same_site}{secure}");
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
    }
}

fn random_secret() -> Vec<u8> {
    let secret: [u8; 32] = rand::random();
    secret.to_vec()
}

impl Session {
    /// How it is told.
    pub fn mode(&self) -> StickyMode {
        self.sticky.plan.mode
    }

    /// The backend it is pinned to, if that may take a request now. Draining backends go on serving their sessions until
    /// their deadline.
    pub fn backend<'a>(&self, set: &'a BackendSet, now: Instant) -> Option<&'a Arc<Backend>> {
        let pin = self.pin?;
        let backend = set.members.iter().find(|backend| backend.name_hash() == pin.identity)?;
        let wanted = match backend.admin_state() {
            AdminState::Ready => true,
            AdminState::Drain => backend.drain_deadline().is_none_or(|deadline| now < deadline),
            AdminState::Disabled => false,
        };
        let healthy = set.fail_open || backend.health_state() == HealthState::Up;
        (wanted && healthy && !backend.is_full() && !backend.is_held(now) && !self.spills(backend, set))
            .then_some(backend)
    }

    /// Whether the pinned backend is so much busier than the least busy one that the session leaves it.
    fn spills(&self, backend: &Arc<Backend>, set: &BackendSet) -> bool {
        let spill = self.sticky.plan.spill;
        let others = set.ready.iter().filter(|other| other.id != backend.id);
        spill > 0
            && others.map(|other| other.in_flight()).min().is_some_and(|least| backend.in_flight() >= least + spill)
    }

    /// `backend` takes the request: pins the session there.
    pub fn settle(&self, backend: &Backend, secure: bool, now: u64) -> Settled {
        let kept = self.pin.map(|pin| pin.identity == backend.name_hash());
        let issued = match (self.pin, kept) {
            (Some(pin), Some(true)) => pin.issued,
            _ => now,
        };
        let pin = Pin { identity: backend.name_hash(), issued, used: now };
        let mut cookie = None;
        match (self.sticky.plan.mode, self.key) {
            (StickyMode::Cookie, _) => {
                // A cookie in use is renewed now and then, not with every response.
                let renew = Duration::from_secs(60).as_secs().min(self.sticky.plan.idle.as_secs() / 4);
                let fresh = self.pin.is_some_and(|pin| now.saturating_sub(pin.used) < renew.max(1));
                if kept != Some(true) || !fresh {
                    cookie = self.sticky.cookie(&pin, secure, now);
                }
            }
            (StickyMode::Header | StickyMode::SourceIp, Some(key)) => self.sticky.remember(key, pin),
            (StickyMode::Header | StickyMode::SourceIp, None) => return Settled { kept: None, cookie: None },
        }
        Settled { kept, cookie }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(mode: StickyMode) -> StickyPlan {
        StickyPlan {
            mode,
            name: "evenkeel".into(),
            secret: None,
            idle: Duration::from_secs(1800),
            life: Duration::from_secs(8 * 3600),
            same_site: SameSite::Lax,
            spill: 0,
        }
    }

    fn value(cookie: &HeaderValue) -> Vec<u8> {
        let text = cookie.to_str().unwrap();
        text.strip_prefix("evenkeel=").unwrap().split(';').next().unwrap().as_bytes().to_vec()
    }

    #[test]
    fn a_cookie_comes_back_and_dies_of_idleness_and_age() {
        let sticky = Arc::new(Sticky::new("test", &plan(StickyMode::Cookie)));
        let now = 1_800_000_000;
        let pin = Pin { identity: 7, issued: now, used: now };
        let cookie = sticky.cookie(&pin, true, now).unwrap();
        let text = cookie.to_str().unwrap();
        assert!(text.ends_with("; Path=/; Max-Age=1800; HttpOnly; SameSite=Lax; Secure"), "{text}");
        let alive = |at: u64| sticky.session(Some(&value(&cookie)), at).pin;
        assert_eq!(alive(now), Some(pin));
        assert_eq!(alive(now + 1800), Some(pin));
        assert_eq!(alive(now + 1801), None, "idle");
        let back = Pin { identity: 7, issued: now - 3600, used: now - 3600 };
        assert_eq!(alive(now - 3600), Some(back), "a clock that was set back ends no session");
        let set_on = Pin { identity: 7, issued: now, used: now + 3600 };
        let used_then = value(&sticky.cookie(&set_on, true, now).unwrap());
        assert!(sticky.session(Some(&used_then), now + 60).pin.is_some(), "nor one that was set on and back again");
        let old = Pin { identity: 7, issued: now, used: now + 8 * 3600 };
        let cookie = sticky.cookie(&old, false, now).unwrap();
        assert!(sticky.session(Some(&value(&cookie)), now + 8 * 3600 + 1).pin.is_none(), "life");
    }

    #[test]
    fn another_secret_or_a_changed_digit_is_no_session() {
        let (ours, theirs) = (
            Arc::new(Sticky::new("test", &plan(StickyMode::Cookie))),
            Arc::new(Sticky::new("test", &plan(StickyMode::Cookie))),
        );
        let pin = Pin { identity: 7, issued: 100, used: 100 };
        let cookie = value(&ours.cookie(&pin, false, 100).unwrap());
        assert!(ours.session(Some(&cookie), 100).pin.is_some());
        assert!(theirs.session(Some(&cookie), 100).pin.is_none());
        for at in 0..cookie.len() {
            let mut forged = cookie.clone();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            assert!(ours.session(Some(&forged), 100).pin.is_none(), "digit {at}");
        }
        assert!(ours.session(Some(&cookie[1..]), 100).pin.is_none());
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_used() {
        let sticky = Arc::new(Sticky::new("test", &plan(StickyMode::Header)));
        let many = SHARDS * MOST_PER_SHARD * 2;
        for number in 0..many {
            let session = sticky.session(Some(number.to_string().as_bytes()), 100);
            sticky.remember(session.key.unwrap(), Pin { identity: 1, issued: 100, used: 100 });
        }
        let held: usize = sticky.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(held <= SHARDS * MOST_PER_SHARD && held > SHARDS * MOST_PER_SHARD / 2, "{held}");
        let last = sticky.session(Some((many - 1).to_string().as_bytes()), 200);
        assert!(last.pin.is_some());
        assert!(sticky.session(Some((many - 1).to_string().as_bytes()), 100 + 1801).pin.is_none());
    }

    proptest! {
        #[test]
        fn no_cookie_panics(value in proptest::collection::vec(any::<u8>(), 0..100)) {
            let sticky = Arc::new(Sticky::new("test", &plan(StickyMode::Cookie)));
            prop_assert!(sticky.session(Some(&value), 5).pin.is_none());
        }

        #[test]
        fn what_is_signed_is_verified(identity in any::<u64>(), issued in any::<u64>(), used in any::<u64>()) {
            let sticky = Sticky::new("test", &plan(StickyMode::Cookie));
            let pin = Pin { identity, issued, used };
            prop_assert_eq!(sticky.verify(sticky.sign(&pin).as_bytes()), Some(pin));
        }
    }
}
