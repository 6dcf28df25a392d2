//! The Gateway API, where it is served: its kinds come with CustomResourceDefinitions, which an API may get and lose while
//! the agent runs.
//!
//! One small question now and then says which kinds there are; each of them is then followed like any other. A kind that
//! is gone for two answers has no objects any more: a single answer may be of an API that is just starting.

mod status;

use crate::client::chain;
use crate::convert;
use crate::follow::{CEILING_UNREACHABLE, Follow, Observer};
use crate::{Object, SourceError, SourceStatus, status_code};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::api::{Api, ApiResource};
use status::Shown;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use warren_store::{Durability, Record, Store};
use warren_types::gateway::GATEWAY_GROUP;
use warren_types::{Gateway, GatewayClass, GatewayObject, GrpcRoute, HttpRoute, ReferenceGrant, RouteKind};

/// How often the API is asked for its kinds: so long after a CustomResourceDefinition its objects are noticed.
const ASK: Duration = Duration::from_secs(15);
/// After how many answers without it a kind is gone.
const GONE_AFTER: u32 = 2;
/// The versions that are understood, the better ones first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// A kind that is followed where it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Told(GatewayObject),
    Grant,
}

const KINDS: [Kind; 5] = [
    Kind::Told(GatewayObject::Class),
    Kind::Told(GatewayObject::Gateway),
    Kind::Told(GatewayObject::Route(RouteKind::Http)),
    Kind::Told(GatewayObject::Route(RouteKind::Grpc)),
    Kind::Grant,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Told(kind) => kind.as_str(),
            Self::Grant => "ReferenceGrant",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Told(kind) => plural(kind),
            Self::Grant => "referencegrants",
        }
    }

    /// The versions whose objects are understood. Of routes and Gateways there is nothing in older ones that would still be
    /// served alone.
    fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Told(_) => &VERSIONS[..1],
            Self::Grant => &VERSIONS,
        }
    }
}

/// The name of a kind in paths.
fn plural(kind: GatewayObject) -> &'static str {
    match kind {
        GatewayObject::Class => "gatewayclasses",
        GatewayObject::Gateway => "gateways",
        GatewayObject::Route(RouteKind::Http) => "httproutes",
        GatewayObject::Route(RouteKind::Grpc) => "grpcroutes",
    }
}

fn resource(kind: &str, plural: &str, version: &str) -> ApiResource {
    ApiResource {
        group: GATEWAY_GROUP.into(),
        version: version.into(),
        api_version: format!("{GATEWAY_GROUP}/{version}"),
        kind: kind.into(),
        plural: plural.into(),
    }
}

/// How it stands with a kind.
#[derive(Default)]
struct State {
    /// What runs for it: the version, and how that is ended.
    running: Option<(&'static str, CancellationToken)>,
    /// Answers in a row that did not name it.
    missed: u32,
}

/// Follows the kinds that there are, and writes their status.
pub(crate) struct Gateways {
    client: kube::Client,
    store: Store,
    status: SourceStatus,
    shown: Shown,
    ask: Duration,
}

impl Gateways {
    pub(crate) fn new(client: &kube::Client, store: &Store, status: &SourceStatus) -> Self {
        let shown = Shown::default();
        Self { client: client.clone(), store: store.clone(), status: status.clone(), shown, ask: ASK }
    }

    /// Asks this often which kinds there are.
    #[cfg(test)]
    pub(crate) fn asking_every(mut self, ask: Duration) -> Self {
        self.ask = ask;
        self
    }

    /// Follows until `stop`.
    ///
    /// # Errors
    /// Only the store's: an API that is away is waited for.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), SourceError> {
        let stop = stop.child_token();
        let _ends_with_us = stop.clone().drop_guard();
        let mut tasks: JoinSet<Result<(), SourceError>> = JoinSet::new();
        let publisher =
            status::Publisher::new(self.client.clone(), &self.store, self.shown.clone(), self.status.clone());
        tasks.spawn(publisher.run(stop.clone()));
        let mut states: BTreeMap<Kind, State> = BTreeMap::new();
        loop {
            let wait = match self.served().await {
                Ok(served) => {
                    self.adjust(&served, &mut states, &mut tasks, &stop).await?;
                    self.ask
                }
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "the API does not say its kinds");
                    CEILING_UNREACHABLE
                }
            };
            let next = tokio::time::sleep(wait);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = &mut next => break,
                    Some(ended) = tasks.join_next() => match ended {
                        Ok(result) => result?,
                        Err(e) => return Err(SourceError::Task(e.to_string())),
                    },
                }
            }
        }
    }

    /// Which kinds the API serves, each in the best version that is understood.
    async fn served(&self) -> Result<BTreeMap<Kind, &'static str>, kube::Error> {
        let mut served = BTreeMap::new();
        for version in VERSIONS {
            let wanted = |kind: &Kind| kind.versions().contains(&version) && !served.contains_key(kind);
            let wanted: Vec<Kind> = KINDS.into_iter().filter(wanted).collect();
            if wanted.is_empty() {
                continue;
            }
            let path = format!("/apis/{GATEWAY_GROUP}/{version}");
            let request = http::Request::get(path).body(Vec::new());
            let request = request
                .map_err(|e| kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(e)))?;
            match self.client.request::<APIResourceList>(request).await {
                Ok(list) => {
                    let there = |kind: &Kind| list.resources.iter().any(|r| r.name == kind.plural());
                    served.extend(wanted.into_iter().filter(there).map(|kind| (kind, version)));
                }
                Err(e) if status_code(&e) == Some(404) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(served)
    }

    /// Begins to follow what is new, and forgets what is gone.
    async fn adjust(
        &self,
        served: &BTreeMap<Kind, &'static str>,
        states: &mut BTreeMap<Kind, State>,
        tasks: &mut JoinSet<Result<(), SourceError>>,
        stop: &CancellationToken,
    ) -> Result<(), SourceError> {
        for kind in KINDS {
            let state = states.entry(kind).or_default();
            let version = served.get(&kind).copied();
            state.missed = if version.is_some() { 0 } else { state.missed + 1 };
            let gone = state.missed >= GONE_AFTER;
            if let Some((running, ends)) = &state.running {
                if version.map_or(!gone, |version| version == *running) {
                    continue;
                }
                tracing::info!(kind = kind.name(), "this kind is not served any more as it was");
                ends.cancel();
                // What it waited for, or could not do, is nobody's concern any more.
                self.status.synced(kind.name(), true);
                self.status.write_result(&format!("watch {}", kind.name()), None);
            }
            let stop = stop.child_token();
            state.running = version.map(|version| (version, stop.clone()));
            let begun = Begin { kind, version, gone, tasks, stop };
            match kind {
                Kind::Told(GatewayObject::Class) => {
                    let key = |o: &Object| convert::gateway_class_of(&o.metadata).map(|n| n.to_string());
                    let read = |o: &Object| convert::gateway_class(&o.metadata, &o.data);
                    self.follow::<GatewayClass>(begun, read, key).await?;
                }
                Kind::Told(GatewayObject::Gateway) => {
                    let key = |o: &Object| convert::gateway_key_of(&o.metadata).map(|k| k.to_string());
                    let read = |o: &Object| convert::gateway(&o.metadata, &o.data);
                    self.follow::<Gateway>(begun, read, key).await?;
                }
                Kind::Told(GatewayObject::Route(RouteKind::Http)) => {
                    let read = |o: &Object| convert::http_route(&o.metadata, &o.data);
                    self.follow::<HttpRoute>(begun, read, route_key).await?;
                }
                Kind::Told(GatewayObject::Route(RouteKind::Grpc)) => {
                    let read = |o: &Object| convert::grpc_route(&o.metadata, &o.data);
                    self.follow::<GrpcRoute>(begun, read, route_key).await?;
                }
                Kind::Grant => {
                    let key = |o: &Object| convert::grant_key_of(&o.metadata).map(|k| k.to_string());
                    let read = |o: &Object| convert::reference_grant(&o.metadata, &o.data);
                    self.follow::<ReferenceGrant>(begun, read, key).await?;
                }
            }
        }
        Ok(())
    }

    /// Follows a kind in its version; in none there are no objects of it.
    async fn follow<R: Record>(
        &self,
        Begin { kind, version, gone, tasks, stop }: Begin<'_>,
        convert: fn(&Object) -> convert::Converted<R>,
        key: fn(&Object) -> Option<String>,
    ) -> Result<(), SourceError> {
        let table = self.store.table::<R>();
        let mut observer = self.shown.observer(kind);
        let Some(version) = version else {
            let known = !table.snapshot().rows.is_empty();
            if known && !gone {
                return Ok(());
            }
            self.status.retain_refusals(kind.name(), &BTreeSet::new());
            observer.begin();
            observer.listed();
            if known || !table.loaded() {
                table.replace(Vec::new(), Durability::Cached).await?;
            }
            return Ok(());
        };
        let api = Api::all_with(self.client.clone(), &resource(kind.name(), kind.plural(), version));
        let follow = Follow {
            kind: kind.name(),
            api,
            table,
            convert,
            key,
            observer,
            status: self.status.clone(),
            optional: Some(GATEWAY_GROUP),
            only: None,
        };
        tasks.spawn(follow.run(stop));
        Ok(())
    }
}

/// How it goes on with a kind.
struct Begin<'a> {
    kind: Kind,
    /// None: it is not served.
    version: Option<&'static str>,
    /// Whether that is certain.
    gone: bool,
    tasks: &'a mut JoinSet<Result<(), SourceError>>,
    stop: CancellationToken,
}

fn route_key(o: &Object) -> Option<String> {
    convert::route_key_of(&o.metadata).map(|k| k.to_string())
}
