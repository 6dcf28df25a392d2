//! Names and hardware addresses that follow from an attachment's key: nothing needs to be remembered to find them again.

use warren_types::{AttachmentKey, IfName, marks};

/// Names that are tried for one attachment.
const SALTS: u32 = 16;

/// A hash that is the same in every build and on every machine (FNV-1a, with a last mix so that all bits depend on all
/// bytes).
fn hash(parts: &[&[u8]]) -> u64 {
    let mut h: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.iter().chain(&[0]) {
            h = (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 33)
}

/// Name of the host side. Another `salt` gives another name, for the one key in a great many whose name is taken.
pub(super) fn host_link(key: &AttachmentKey, salt: u32) -> IfName {
    let h =
        hash(&[key.container_id.as_str().as_bytes(), key.if_name.as_str().as_bytes(), &salt.to_be_bytes()]);
    let name = format!("{}{:011x}", marks::POD_LINK_PREFIX, h & 0x0fff_ffff_ffff);
    // The form is a constant of this function, and the type knows it as valid.
    IfName::new(name).unwrap_or_else(|_| unreachable!("fifteen letters and digits are a link name"))
}

/// Every name that the host side of an attachment can have.
pub(super) fn host_links(key: &AttachmentKey) -> impl Iterator<Item = IfName> + '_ {
    (0..SALTS).map(|salt| host_link(key, salt))
}

/// Whether a link is the host side of a pod by name.
pub(super) fn is_host_link(name: &str) -> bool {
    name.strip_prefix(marks::POD_LINK_PREFIX)
        .is_some_and(|rest| rest.len() == 11 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Hardware addresses of both ends: unicast, locally administered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Macs {
    pub(super) host: [u8; 6],
    pub(super) pod: [u8; 6],
}

pub(super) fn macs(host_link: &IfName) -> Macs {
    let of = |end: &[u8]| {
        let [_, _, a, b, c, d, e, f] = hash(&[host_link.as_str().as_bytes(), end]).to_be_bytes();
        [(a & 0xfc) | 0x02, b, c, d, e, f]
    };
    Macs { host: of(b"host"), pod: of(b"pod") }
}

/// As people write it.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use warren_types::ContainerId;

    fn key(id: &str) -> AttachmentKey {
        AttachmentKey { container_id: ContainerId::new(id).unwrap(), if_name: IfName::new("eth0").unwrap() }
    }

    #[test]
    fn names_never_change() {
        // Written down: a new Warren must find the links of an old one.
        assert_eq!(host_link(&key("a"), 0).as_str(), NAME_OF_A);
        assert_eq!(mac_text(macs(&host_link(&key("a"), 0)).pod), MAC_OF_A);
    }
    const NAME_OF_A: &str = "wrnpd571ba3800d";
    const MAC_OF_A: &str = "ee:9f:82:a7:dc:42";

    proptest! {
        #[test]
        fn names_and_macs_have_their_form(id in "[a-z0-9]{1,64}", salt: u32) {
            let name = host_link(&key(&id), salt);
            prop_assert!(is_host_link(name.as_str()), "{}", name);
            let macs = macs(&name);
            prop_assert_ne!(macs.host, macs.pod);
            for mac in [macs.host, macs.pod] {
                prop_assert_eq!(mac[0] & 3, 2);
            }
            prop_assert_ne!(host_link(&key(&id), salt.wrapping_add(1)), name);
        }
    }
}
