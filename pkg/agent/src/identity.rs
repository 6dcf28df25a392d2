//! The node's own keys: loaded, or made once and never again.

use ring::rand::{SecureRandom as _, SystemRandom};
use warren_store::tables::{NodeKeys, ONLY};
use warren_store::{Durability, Store, StoreError};
use warren_types::{NodeId, PublicKey, Secret, SecretKey};

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes for this node's keys")]
    Random,
    /// The store refused them.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The keys of this node. `recovered` is the private key that the tunnel already uses, looked for only when the store
/// had to be set aside: taking it over keeps every tunnel up.
///
/// # Errors
/// [`IdentityError`].
pub async fn load_or_make(store: &Store, recovered: Option<SecretKey>) -> Result<NodeKeys, IdentityError> {
    let table = store.table::<NodeKeys>();
    if let Some(keys) = table.get(ONLY) {
        return Ok(NodeKeys::clone(&keys));
    }
    let keys = make(recovered)?;
    table.put(keys.clone(), Durability::Flushed).await?;
    tracing::info!(node_id = %keys.node_id, public_key = %public_key(&keys.private_key), "made this node's keys");
    Ok(keys)
}

fn make(recovered: Option<SecretKey>) -> Result<NodeKeys, IdentityError> {
    let random = SystemRandom::new();
    let mut id = [0u8; 16];
    let mut password = [0u8; 32];
    let mut key = [0u8; 32];
    for buffer in [&mut id[..], &mut password[..], &mut key[..]] {
        random.fill(buffer).map_err(|_| IdentityError::Random)?;
    }
    // Clamped as WireGuard's tools do, so that the key reads the same everywhere (RFC 7748, section 5).
    key[0] &= 248;
    key[31] = (key[31] & 127) | 64;
    Ok(NodeKeys {
        node_id: NodeId::new(hex(&id)).map_err(|_| IdentityError::Random)?,
        private_key: recovered.unwrap_or_else(|| SecretKey::from_bytes(key)),
        node_password: Secret::new(hex(&password)),
    })
}

/// The public half of a private key.
#[must_use]
pub fn public_key(private: &SecretKey) -> PublicKey {
    let secret = x25519_dalek::StaticSecret::from(*private.expose());
    PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fresh_each_time_and_a_recovered_one_is_kept() {
        let (a, b) = (make(None).unwrap(), make(None).unwrap());
        assert_ne!(a.node_id, b.node_id);
        assert_ne!(a.private_key, b.private_key);
        assert_ne!(a.node_password, b.node_password);
        let kept = make(Some(SecretKey::from_bytes([9; 32]))).unwrap();
        assert_eq!(kept.private_key.expose(), &[9; 32]);
    }

    #[test]
    fn the_public_key_is_the_scalar_times_the_base_point() {
        let unhex = |s: &str| -> [u8; 32] {
            let bytes: Vec<u8> =
                (0..32).map(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).unwrap()).collect();
            bytes.try_into().unwrap()
        };
        let private = unhex("77076d0a7318a57d3c16c17251b26645df4c4a4f3a8e4c4e5f1d1e1b2f2c2a2a");
        let point = x25519_dalek::x25519(private, x25519_dalek::X25519_BASEPOINT_BYTES);
        assert_eq!(public_key(&SecretKey::from_bytes(private)), PublicKey(point));
    }
}
