//! What the plugin and the agent say to each other: one frame each way, a length of four bytes and JSON.

use crate::spec::{Refusal, SpecVersion};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;

/// Largest frame. A configuration of [`crate::spec::MAX_CONFIG`] bytes may double when it becomes a JSON string.
pub(crate) const MAX_FRAME: usize = 4 << 20;
const HEAD: usize = 4;

/// The answer to a [`crate::spec::Call`]: what the plugin prints, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Exit code of the plugin.
    pub exit: u8,
    /// What it prints.
    pub stdout: String,
}

impl Reply {
    /// Success with a result, or with nothing to say.
    pub(crate) fn success(result: Option<&Value>) -> Self {
        Self { exit: 0, stdout: result.map(Value::to_string).unwrap_or_default() }
    }

    /// An error object.
    pub(crate) fn refusal(version: SpecVersion, refusal: &Refusal) -> Self {
        Self { exit: 1, stdout: refusal.render(version).to_string() }
    }
}

/// A message as a frame.
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEAD];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - HEAD;
    let head = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let head = head.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the message is too large"))?;
    bytes[..HEAD].copy_from_slice(&head.to_be_bytes());
    Ok(bytes)
}

/// Bytes of a frame as they arrive.
#[derive(Debug, Default)]
pub(crate) struct Incoming(Vec<u8>);

impl Incoming {
    /// Takes bytes; true when the frame is complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.0.extend_from_slice(bytes);
        let Some(head) = self.0.first_chunk::<HEAD>() else { return Ok(false) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
        }
        match self.0.len().cmp(&(HEAD + length)) {
            std::cmp::Ordering::Less => Ok(false),
            std::cmp::Ordering::Equal => Ok(true),
            std::cmp::Ordering::Greater => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "bytes behind the frame"))
            }
        }
    }

    /// The message of a complete frame.
    pub(crate) fn message<T: for<'de> Deserialize<'de>>(&self) -> io::Result<T> {
        Ok(serde_json::from_slice(self.0.get(HEAD..).unwrap_or_default())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Call;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_call_arrives_in_pieces(config in "\\PC{0,200}", cut in 0usize..100) {
            let call = Call { command: "ADD".into(), config, ..Call::default() };
            let bytes = frame(&call).unwrap();
            let cut = cut.min(bytes.len() - 1);
            let mut incoming = Incoming::default();
            prop_assert!(!incoming.push(&bytes[..cut]).unwrap());
            prop_assert!(incoming.push(&bytes[cut..]).unwrap());
            prop_assert_eq!(incoming.message::<Call>().unwrap(), call);
        }

        #[test]
        fn a_mutated_frame_is_read_or_refused(
            flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4), noise: Vec<u8>, reply: bool,
        ) {
            let bytes = if reply { frame(&Reply { exit: 1, stdout: "{}".into() }) } else { frame(&Call::default()) };
            let mut bytes = bytes.unwrap();
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let framed = [&u32::try_from(noise.len()).unwrap().to_be_bytes()[..], &noise].concat();
            for bytes in [&bytes, &framed] {
                let mut incoming = Incoming::default();
                if let Ok(true) = incoming.push(bytes) {
                    let _ = (incoming.message::<Call>(), incoming.message::<Reply>());
                }
            }
        }

        #[test]
        fn any_bytes_are_harmless(bytes: Vec<u8>) {
            let mut incoming = Incoming::default();
            if let Ok(true) = incoming.push(&bytes) {
                let _ = incoming.message::<Call>();
            }
        }
    }

    #[test]
    fn a_huge_frame_is_refused_by_its_head() {
        assert!(Incoming::default().push(&u32::MAX.to_be_bytes()).is_err());
    }
}
