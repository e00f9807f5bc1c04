//! Secrets that the marketplace hands out once and keeps only as a hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use sha2::{Digest as _, Sha256};
use surplus_protocol::Digest;

/// Marks an API key, so that scanners find one that leaked.
pub(crate) const KEY_PREFIX: &str = "surplus_";

/// Marks a join token.
pub(crate) const TOKEN_PREFIX: &str = "surplus_join_";

/// The system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a secret: the system gives no randomness")]
pub struct NoRandomness(#[source] rand::rand_core::OsError);

/// A new secret of 256 random bits.
///
/// # Errors
///
/// Where the system gives no randomness.
pub(crate) fn generate(prefix: &str) -> Result<String, NoRandomness> {
    let mut bytes = [0; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(NoRandomness)?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// What is kept of a secret. A secret of 256 random bits needs no salt and no
/// slow hash.
pub(crate) fn hash(secret: &str) -> Digest {
    Digest::from_sha256(Sha256::digest(secret.as_bytes()).into())
}
