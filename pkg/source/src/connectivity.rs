//! What this node found in a run of `warren connectivity`, into the ConfigMap of the run.

use crate::backoff::Backoff;
use crate::client::chain;
use crate::{Object, SourceConfig, SourceError, SourceStatus, resource, status_code};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use warren_store::tables::ONLY;
use warren_store::{Store, StoreError, Table};
use warren_types::NodeName;
use warren_types::cluster::CONFIG_MAP_NAMESPACE;
use warren_types::connectivity::{CONFIG_MAP_NAME, ConnectivityAnswer, ConnectivityRun, answer_key};

/// First and longest wait after an answer that could not be written.
const FIRST: Duration = Duration::from_millis(200);
const CEILING: Duration = Duration::from_secs(5);

/// Brings the row of table `connectivity_answer` to the API.
pub(crate) struct Publisher {
    api: Api<Object>,
    node: NodeName,
    answers: Table<ConnectivityAnswer>,
    runs: Table<ConnectivityRun>,
    status: SourceStatus,
}

impl Publisher {
    pub(crate) fn new(
        config: &SourceConfig,
        client: kube::Client,
        store: &Store,
        status: SourceStatus,
    ) -> Self {
        let api = Api::namespaced_with(client, CONFIG_MAP_NAMESPACE, &resource::<ConfigMap>());
        let node = config.node_name.clone();
        Self { api, node, answers: store.table(), runs: store.table(), status }
    }

    /// Publishes until `stop`. Each answer is written once: nobody else writes it, and nobody asks for an old one.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), SourceError> {
        let (mut answers, mut runs) = (self.answers.watch(), self.runs.watch());
        let (mut backoff, name) = (Backoff::new(FIRST, CEILING), format!("connectivity of {}", self.node));
        let mut written = None;
        loop {
            let run = self.runs.get(ONLY).map(|run| run.id.clone());
            let due =
                self.answers.get(ONLY).filter(|a| run.as_ref() == Some(&a.id) && written.as_ref() != Some(a));
            let mut again = None;
            match &due {
                None => self.status.write_result(&name, None),
                Some(answer) => match self.write(answer).await {
                    Ok(()) => {
                        self.status.write_result(&name, None);
                        backoff.reset();
                        written = due;
                        continue;
                    }
                    Err(error) => {
                        self.status.write_result(&name, Some(chain(&error)));
                        again = Some(backoff.next_wait());
                    }
                },
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                update = answers.next() => drop(update.ok_or(StoreError::Closed)?),
                update = runs.next() => drop(update.ok_or(StoreError::Closed)?),
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
            }
        }
    }

    async fn write(&self, answer: &ConnectivityAnswer) -> Result<(), kube::Error> {
        let text = serde_json::to_string(answer).map_err(kube::Error::SerdeError)?;
        let patch = Patch::Merge(json!({ "data": { answer_key(&self.node): text } }));
        match self.api.patch(CONFIG_MAP_NAME, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            // The run is over.
            Err(e) if status_code(&e) == Some(404) => Ok(()),
            Err(e) => Err(e),
        }
    }
}
