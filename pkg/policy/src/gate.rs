//! Pods are let in when the kernel has what isolates them, and not before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use warren_types::{AttachmentKey, PodKey};

/// Attachments that wait at once.
const QUEUE: usize = 256;
/// How long an ADD waits for the kernel, beyond what it waits for the pod to become known.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a pod is not let in now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// Policies have never been listed.
    #[error("network policies are not known yet: {0}")]
    NotReady(String),
    /// The pod has not been seen, so neither have its labels.
    #[error(
        "pod {0} is not in this node's list of pods, so its network policies are not known; is the API reachable? \
         See `warren status`"
    )]
    UnknownPod(PodKey),
    /// The attachment is gone, or its rules could not be made.
    #[error("the rules of its network policies are not in the kernel: {0}")]
    NoRules(String),
}

/// Somebody waits at the gate.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) key: AttachmentKey,
    pub(crate) answer: oneshot::Sender<Result<(), GateError>>,
}

/// The gate that CNI ADD waits at. Clones share it; it outlives restarts of the subsystem.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Mutex<Option<mpsc::Sender<Admission>>>>);

impl Gate {
    /// Waits until what isolates a pod is in the kernel. Its attachment must be in table `attachments`.
    ///
    /// # Errors
    /// [`GateError`]; the pod must not be connected then.
    pub async fn admit(&self, key: &AttachmentKey) -> Result<(), GateError> {
        let not_ready =
            || GateError::NotReady("waiting for their first list from the API; see `warren status`".into());
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(not_ready)?;
        let (answer, answered) = oneshot::channel();
        let admission = Admission { key: key.clone(), answer };
        let wait = async {
            sender.send(admission).await.map_err(|_| not_ready())?;
            answered.await.unwrap_or_else(|_| Err(GateError::NoRules("the policy subsystem ended".into())))
        };
        let late = || GateError::NoRules(format!("it took longer than {} s", PATIENCE.as_secs()));
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| Err(late()))
    }

    /// Opens it for those who wait, one subsystem at a time.
    pub(crate) fn open(&self) -> mpsc::Receiver<Admission> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }
}
