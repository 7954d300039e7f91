//! SCRAM credentials of users (RFC 5802, KIP-554): what is kept, and which requests change it.
//!
//! Never a password: a client sends it salted and hashed, and what is kept of that are two further hashes by
//! which a login can be judged but not made. It knows no SASL exchange. Messages have the words of Kafka's
//! `ScramControlManager`.

use std::collections::BTreeMap;
use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};

use super::Context;
use super::records::MetadataRecord;
use super::request::Refusal;
use crate::protocol::ErrorCode;

/// Fewest rounds of hashing that are accepted; most are [`MAX_ITERATIONS`].
pub const MIN_ITERATIONS: i32 = 4096;
/// Most rounds of hashing that are accepted.
pub const MAX_ITERATIONS: i32 = 16_384;
/// The longest salt and salted password that are taken, in bytes.
pub const MAX_SECRET_BYTES: usize = 1 << 10;

/// A SCRAM mechanism, with its code (`ScramMechanism`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum ScramMechanism {
    /// SCRAM-SHA-256.
    Sha256 = 1,
    /// SCRAM-SHA-512.
    Sha512 = 2,
}

impl ScramMechanism {
    /// That of a code.
    pub fn from_code(code: i8) -> Option<ScramMechanism> {
        match code {
            1 => Some(ScramMechanism::Sha256),
            2 => Some(ScramMechanism::Sha512),
            _ => None,
        }
    }

    /// Its code.
    pub fn code(self) -> i8 {
        self as i8
    }

    fn hmac(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        fn sum<M: Mac + hmac::digest::KeyInit>(key: &[u8], text: &[u8]) -> Vec<u8> {
            let mut mac = <M as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
            mac.update(text);
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            ScramMechanism::Sha256 => sum::<Hmac<Sha256>>(key, text),
            ScramMechanism::Sha512 => sum::<Hmac<Sha512>>(key, text),
        }
    }

    fn hash(self, text: &[u8]) -> Vec<u8> {
        match self {
            ScramMechanism::Sha256 => Sha256::digest(text).to_vec(),
            ScramMechanism::Sha512 => Sha512::digest(text).to_vec(),
        }
    }
}

/// What is kept of a user's password for one mechanism.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramCredential {
    /// The salt.
    pub salt: Vec<u8>,
    /// H(HMAC(salted password, "Client Key")).
    pub stored_key: Vec<u8>,
    /// HMAC(salted password, "Server Key").
    pub server_key: Vec<u8>,
    /// Rounds of hashing.
    pub iterations: i32,
}

impl fmt::Debug for ScramCredential {
    /// Without the keys: they are secrets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ScramCredential").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl ScramCredential {
    /// What is kept of a salted password.
    pub fn new(mechanism: ScramMechanism, salt: &[u8], salted_password: &[u8], iterations: i32) -> ScramCredential {
        let client_key = mechanism.hmac(salted_password, b"Client Key");
        ScramCredential {
            salt: salt.to_vec(),
            stored_key: mechanism.hash(&client_key),
            server_key: mechanism.hmac(salted_password, b"Server Key"),
            iterations,
        }
    }
}

/// All credentials: by user, then by mechanism.
pub type Credentials = BTreeMap<String, BTreeMap<ScramMechanism, ScramCredential>>;

/// A change of one user's credential.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramAlteration {
    /// The user.
    pub user: String,
    /// The mechanism's code.
    pub mechanism: i8,
    /// The new secret; `None` removes the credential.
    pub secret: Option<SaltedPassword>,
}

impl fmt::Debug for ScramAlteration {
    /// Without the secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alteration = &mut out.debug_struct("ScramAlteration");
        alteration.field("user", &self.user).field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

/// What a client sends of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct SaltedPassword {
    /// Rounds of hashing.
    pub iterations: i32,
    /// The salt.
    pub salt: Vec<u8>,
    /// Hi(password, salt, iterations).
    pub salted_password: Vec<u8>,
}

/// What the hashes of a credential cost (see [`crate::io::Pace`]).
const HASHES_COST: usize = 5;

/// Changes credentials; one result for each user, all of whose changes are made or none.
pub(super) async fn alter(
    context: &mut Context<'_>,
    alterations: &[ScramAlteration],
) -> Vec<(String, Result<(), Refusal>)> {
    let mut by_user: BTreeMap<&str, Vec<&ScramAlteration>> = BTreeMap::new();
    for alteration in alterations {
        by_user.entry(&alteration.user).or_default().push(alteration);
    }
    let mut results = Vec::with_capacity(by_user.len());
    for (user, alterations) in by_user {
        context.pace.spend(alterations.len() * HASHES_COST).await;
        let records = records(&context.image.scram, user, &alterations);
        results.push((user.to_owned(), records.map(|records| context.records.extend(records))));
    }
    results
}

fn records(
    current: &Credentials,
    user: &str,
    alterations: &[&ScramAlteration],
) -> Result<Vec<MetadataRecord>, Refusal> {
    let unacceptable = |why: &str| Err(Refusal::new(ErrorCode::UnacceptableCredential, why));
    if user.is_empty() {
        return unacceptable("Username must not be empty");
    }
    let mut records = Vec::with_capacity(alterations.len());
    let mut seen = Vec::with_capacity(alterations.len());
    for alteration in alterations {
        let Some(mechanism) = ScramMechanism::from_code(alteration.mechanism) else {
            return Err(Refusal::new(ErrorCode::UnsupportedSaslMechanism, "Unknown SCRAM mechanism"));
        };
        if seen.contains(&mechanism) {
            let why = "A user credential cannot be altered twice in the same request";
            return Err(Refusal::new(ErrorCode::DuplicateResource, why));
        }
        seen.push(mechanism);
        let credential = match &alteration.secret {
            None if current.get(user).is_some_and(|known| known.contains_key(&mechanism)) => None,
            None => {
                let why = "Attempt to delete a user credential that does not exist";
                return Err(Refusal::new(ErrorCode::ResourceNotFound, why));
            }
            Some(secret) => {
                check(secret)?;
                Some(ScramCredential::new(mechanism, &secret.salt, &secret.salted_password, secret.iterations))
            }
        };
        records.push(MetadataRecord::ScramCredential { user: user.to_owned(), mechanism, credential });
    }
    Ok(records)
}

fn check(secret: &SaltedPassword) -> Result<(), Refusal> {
    let unacceptable = |why: &str| Err(Refusal::new(ErrorCode::UnacceptableCredential, why));
    match secret.iterations {
        ..MIN_ITERATIONS => return unacceptable("Too few iterations"),
        MIN_ITERATIONS..=MAX_ITERATIONS => {}
        _ => return unacceptable("Too many iterations"),
    }
    let is_long = |bytes: &[u8]| bytes.len() > MAX_SECRET_BYTES;
    if secret.salt.is_empty() || secret.salted_password.is_empty() {
        return unacceptable("Salt and salted password must not be empty");
    }
    if is_long(&secret.salt) || is_long(&secret.salted_password) {
        return unacceptable("Salt or salted password is too long");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677: what the server there stores is what is kept here.
    #[test]
    fn keys_are_those_of_the_rfc() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
        };
        // PBKDF2-HMAC-SHA-256("pencil", W22ZaJ0SNY7soEsUEjb6gQ==, 4096).
        let salted = hex("c4a49510323ab4f952cac1fa99441939e78ea74d6be81ddf7096e87513dc615d");
        let credential = ScramCredential::new(ScramMechanism::Sha256, b"salt", &salted, 4096);
        let stored_key = "586e5df283e6dceb5c3e791d8b8528ec191e664045ce971792e2e6b5bb13e2a6";
        let server_key = "c1f3cbc1c13a9d35a14c0990eed97629ea225863e566a4314ab99f3f00e5d9d5";
        assert_eq!((credential.stored_key, credential.server_key), (hex(stored_key), hex(server_key)));
        let longer = ScramCredential::new(ScramMechanism::Sha512, b"salt", &salted, 4096);
        assert_eq!((longer.stored_key.len(), longer.server_key.len()), (64, 64));
    }

    #[test]
    fn a_users_changes_hold_together() {
        let secret = |iterations| Some(SaltedPassword { iterations, salt: vec![1], salted_password: vec![2; 32] });
        let change = |mechanism, secret| ScramAlteration { user: "alice".to_owned(), mechanism, secret };
        let error = |alterations: &[ScramAlteration]| {
            let alterations: Vec<_> = alterations.iter().collect();
            records(&Credentials::new(), "alice", &alterations).map_err(|refusal| refusal.error)
        };
        assert_eq!(error(&[change(1, secret(4096)), change(2, secret(8192))]).expect("both are right").len(), 2);
        assert_eq!(error(&[change(1, secret(4095))]), Err(ErrorCode::UnacceptableCredential));
        assert_eq!(error(&[change(1, secret(16_385))]), Err(ErrorCode::UnacceptableCredential));
        assert_eq!(error(&[change(3, secret(4096))]), Err(ErrorCode::UnsupportedSaslMechanism));
        assert_eq!(error(&[change(1, secret(4096)), change(2, None)]), Err(ErrorCode::ResourceNotFound));
        assert_eq!(error(&[change(1, secret(4096)), change(1, secret(4096))]), Err(ErrorCode::DuplicateResource));
    }
}
