//! Certificates of Warren's own authority, where the API is somebody else's: for Ingresses that ask for them, and for hosts
//! that have none of their own.
//!
//! One agent does it at a time, the one that holds a Lease. Every agent knows by its own rows whether all is there; only who
//! misses something asks for the Lease, and who gets it reads the Secrets anew before it writes. What is written is planned
//! by `warren-ca`. Nothing is deleted: a Secret goes with the Ingresses that own it.
//!
//! The authority is in a Secret. When it is gone and its certificate is still in the ConfigMap, nothing is issued: clients
//! trust that one, and another authority is for people to make.

use crate::backoff::Backoff;
use crate::client::chain;
use crate::election::Election;
use crate::secrets::list_one;
use crate::{Object, SourceError, SourceStatus, resource, status_code};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Secret};
use kube::Resource as _;
use kube::api::{Api, Patch, PatchParams, PostParams, Request};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use warren_ca::{Authority, Found, Name, Plan, Told, Wish, Write};
use warren_store::{Store, StoreError, Table};
use warren_types::ingress::{
    AUTHORITY_CONFIG_MAP, AUTHORITY_SECRET, DEFAULT_CERTIFICATE, INGRESS_CONTROLLER,
};
use warren_types::{
    HostPattern, Ingress, IngressClass, Node, NodeName, SecretContent, SecretName, SecretObject, SecretRef,
};

/// The Lease.
const LEASE: &str = "warren-certificates";
/// What the status calls all of it.
const OBJECT: &str = "Certificates";
/// The key of the ConfigMap's certificate.
const CA_KEY: &str = "ca.crt";
/// What changes together is looked at together.
const GAP: Duration = Duration::from_secs(1);
/// How soon something that is missing is looked for again, and how late at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
/// The longest time between two looks at what there is.
const IDLE: Duration = Duration::from_secs(3600);

/// Issues certificates.
pub(crate) struct Issuer {
    election: Election,
    client: kube::Client,
    ingresses: Table<Ingress>,
    classes: Table<IngressClass>,
    secrets: Table<SecretObject>,
    nodes: Table<Node>,
    status: SourceStatus,
    backoff: Backoff,
    /// Not asked for the Lease before.
    due: Instant,
}

/// What Ingresses wish, by namespace; none when Warren serves no Ingress at all.
type Wishes = Option<BTreeMap<String, Vec<Wish>>>;

impl Issuer {
    pub(crate) fn new(own: NodeName, client: kube::Client, store: &Store, status: SourceStatus) -> Self {
        Self {
            election: Election::new(LEASE, own, client.clone()),
            client,
            ingresses: store.table(),
            classes: store.table(),
            secrets: store.table(),
            nodes: store.table(),
            status,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            due: Instant::now(),
        }
    }

    /// Issues until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        let (mut ingresses, mut classes) = (self.ingresses.watch(), self.classes.watch());
        let (mut secrets, mut nodes) = (self.secrets.watch(), self.nodes.watch());
        loop {
            let wait = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                wait = self.look() => wait,
            };
            let is_news = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                update = ingresses.next() => update.map(|_| true),
                update = classes.next() => update.map(|_| true),
                update = secrets.next() => update.map(|_| true),
                // Nodes write themselves often, and mostly something else.
                update = nodes.next() => update.map(|_| false),
                () = tokio::time::sleep(wait) => Some(false),
            };
            if is_news.ok_or(StoreError::Closed)? {
                self.backoff.reset();
                self.due = self.due.min(Instant::now() + RETRY.0);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(GAP) => {}
            }
        }
    }

    /// One look; says when the next is due.
    async fn look(&mut self) -> Duration {
        if !(self.ingresses.loaded() && self.classes.loaded() && self.nodes.loaded() && self.secrets.loaded())
        {
            return IDLE;
        }
        let wishes = self.wishes();
        let Some(wished) = &wishes else {
            self.status.write_result(OBJECT, None);
            return IDLE;
        };
        if let Some(rests) = self.rests(wished) {
            self.status.write_result(OBJECT, None);
            return rests.min(IDLE);
        }
        let left = self.due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return left;
        }
        let wait = self.backoff.next_wait();
        self.due = Instant::now() + wait;
        let result = match self.election.elected().await {
            Ok(Some(until)) => self.keep(wished, until).await,
            Ok(None) => Ok(()),
            Err(e) => Err(format!("{}: {}", self.election.object(), chain(&e))),
        };
        if let Err(error) = &result {
            tracing::debug!(error, "certificates cannot be issued");
        }
        self.status.write_result(OBJECT, result.err());
        wait
    }

    fn wishes(&self) -> Wishes {
        let classes = self.classes.snapshot().rows;
        let is_served = |row: &Ingress| {
            let class = row.class.as_ref().and_then(|name| classes.get(name));
            class.is_some_and(|class| class.controller == INGRESS_CONTROLLER)
        };
        let rows = self.ingresses.snapshot().rows;
        let mut served = rows.values().filter(|row| is_served(row)).peekable();
        served.peek()?;
        let mut wishes: BTreeMap<String, Vec<Wish>> = BTreeMap::new();
        for (row, wish) in served.filter_map(|row| Some((row, Wish::of(row)?))) {
            wishes.entry(row.key.namespace.to_string()).or_default().push(wish);
        }
        Some(wishes)
    }

    /// How long nothing is to be done, by the rows.
    fn rests(&self, wishes: &BTreeMap<String, Vec<Wish>>) -> Option<Duration> {
        let rows = self.secrets.snapshot().rows;
        let now = Timestamp::now();
        let mut held: BTreeMap<(&str, &str), &SecretContent> = BTreeMap::new();
        for row in rows.values() {
            let SecretRef { namespace, name } = &row.key;
            held.extend(row.content.as_ref().map(|content| ((namespace.as_str(), name.as_str()), content)));
        }
        let mut least =
            warren_ca::default_rests(self.node_names(), held.get(&DEFAULT_CERTIFICATE).copied(), now)?;
        for (namespace, wishes) in wishes {
            let of = |name: &str| held.get(&(namespace.as_str(), name)).copied();
            least = least.min(warren_ca::rests(wishes, of, now)?);
        }
        Some(least)
    }

    fn node_names(&self) -> Vec<std::collections::BTreeSet<Name>> {
        let names = |node: &Node| {
            let addresses = node.internal_ips.iter().copied().map(Name::Address);
            addresses.chain(HostPattern::new(node.name.as_str()).ok().map(Name::Host)).collect()
        };
        self.nodes.snapshot().rows.values().map(|node| names(node)).collect()
    }

    /// Does all that can be done while the Lease counts; tells the first failure.
    async fn keep(&self, wishes: &BTreeMap<String, Vec<Wish>>, until: Instant) -> Result<(), String> {
        let authority = self.authority().await?;
        self.publish(&authority).await?;
        let mut result = Ok(());
        for (namespace, wishes) in wishes {
            let kept = self.keep_namespace(namespace, wishes, &authority, until).await;
            result = result.and(kept);
        }
        let (namespace, name) = DEFAULT_CERTIFICATE;
        let there: BTreeMap<_, _> =
            self.read(namespace, name).await?.map(|secret| (name.to_owned(), secret)).into_iter().collect();
        let found = there.get(name).map(Found::read);
        let plan =
            warren_ca::of_default(self.node_names(), found.as_ref(), authority.root(), Timestamp::now());
        result.and(self.carry_out(namespace, plan, &there, &authority, until).await)
    }

    async fn keep_namespace(
        &self,
        namespace: &str,
        wishes: &[Wish],
        authority: &Authority,
        until: Instant,
    ) -> Result<(), String> {
        let mut there = BTreeMap::new();
        // What cannot be the name of a Secret is nothing to ask for.
        let names = wishes.iter().flat_map(Wish::secrets).filter(|name| SecretName::new(*name).is_ok());
        for name in names {
            if !there.contains_key(name) {
                let secret = self.read(namespace, name).await?;
                there.extend(secret.map(|secret| (name.to_owned(), secret)));
            }
        }
        let found = there.iter().map(|(name, secret)| (name.clone(), Found::read(secret))).collect();
        let plan = warren_ca::of_namespace(namespace, wishes, &found, authority.root(), Timestamp::now());
        self.carry_out(namespace, plan, &there, authority, until).await
    }

    async fn carry_out(
        &self,
        namespace: &str,
        plan: Plan,
        there: &BTreeMap<String, Value>,
        authority: &Authority,
        until: Instant,
    ) -> Result<(), String> {
        let mut result = Ok(());
        for write in plan.writes {
            if Instant::now() >= until {
                return result; // The next round renews the Lease first.
            }
            result = result.and(self.write(namespace, write, there, authority).await);
        }
        for told in plan.told {
            if let Err(error) = self.tell(&told).await {
                result = result.and(Err(format!("Event {namespace}/{}: {}", told.name(), chain(&error))));
            }
        }
        result
    }

    async fn write(
        &self,
        namespace: &str,
        write: Write,
        there: &BTreeMap<String, Value>,
        authority: &Authority,
    ) -> Result<(), String> {
        let (secret, leaf, owners) = match write {
            Write::Issue { secret, names, owners } => {
                let leaf = authority.issue(&names, Timestamp::now()).map_err(|e| e.to_string())?;
                (secret, Some(leaf), owners)
            }
            Write::Own { secret, owners } => (secret, None, owners),
            // Its owner ends it.
            Write::Delete { .. } => return Ok(()),
        };
        let root = authority.root();
        let written = match (there.get(&secret), &leaf) {
            // As it was read: what somebody puts there meanwhile is theirs.
            (Some(found), _) => {
                let mut body = found.clone();
                warren_ca::set(&mut body, leaf.as_ref().map(|leaf| (leaf, root)), &owners);
                self.put(namespace, Some(&secret), body).await
            }
            (None, Some(leaf)) => {
                self.put(namespace, None, warren_ca::body(&secret, leaf, root, &owners)).await
            }
            (None, None) => return Ok(()),
        };
        match written {
            Ok(()) => {
                tracing::info!(
                    namespace,
                    secret,
                    issued = leaf.is_some(),
                    "a Secret with a certificate was written"
                );
                Ok(())
            }
            // Somebody else was there meanwhile: the next round sees.
            Err(e) if matches!(status_code(&e), Some(404 | 409)) => Ok(()),
            Err(e) => Err(format!("Secret {namespace}/{secret}: {}", chain(&e))),
        }
    }

    /// The authority; made when there was none before.
    async fn authority(&self) -> Result<Authority, String> {
        let (namespace, name) = AUTHORITY_SECRET;
        let (map_namespace, map) = AUTHORITY_CONFIG_MAP;
        let remedy = format!(
            "bring it back from a backup; or delete ConfigMap {map_namespace}/{map} too, and import the new root"
        );
        if let Some(secret) = self.read(namespace, name).await? {
            return warren_ca::authority_of(&secret)
                .map_err(|e| format!("Secret {namespace}/{name}: {e}; {remedy}"));
        }
        if self.published().await?.is_some() {
            return Err(format!("the key of the authority is gone with Secret {namespace}/{name}; {remedy}"));
        }
        let (cert, key) = Authority::make(Timestamp::now()).map_err(|e| e.to_string())?;
        let body = warren_ca::authority_body(name, &cert, &key);
        self.put(namespace, None, body)
            .await
            .map_err(|e| format!("Secret {namespace}/{name}: {}", chain(&e)))?;
        tracing::info!(namespace, secret = name, "an authority for certificates of hosts was made");
        Authority::from_pem(&cert, &key).map_err(|e| e.to_string())
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), AUTHORITY_CONFIG_MAP.0)
    }

    /// The certificate that clients are told to trust.
    async fn published(&self) -> Result<Option<String>, String> {
        let (namespace, name) = AUTHORITY_CONFIG_MAP;
        let found = self.maps().get_opt(name).await;
        let found = found.map_err(|e| format!("ConfigMap {namespace}/{name}: {}", chain(&e)))?;
        Ok(found.map(|map| map.data.unwrap_or_default().remove(CA_KEY).unwrap_or_default()))
    }

    async fn publish(&self, authority: &Authority) -> Result<(), String> {
        let ((namespace, name), pem) = (AUTHORITY_CONFIG_MAP, &authority.root().pem);
        match self.published().await? {
            Some(found) if found == *pem => return Ok(()),
            Some(_) => {
                let (of, secret) = AUTHORITY_SECRET;
                return Err(format!(
                    "ConfigMap {namespace}/{name} has the certificate of another authority than Secret {of}/{secret}; delete the one that is wrong"
                ));
            }
            None => {}
        }
        let map = json!({"metadata": {"name": name}, "data": {CA_KEY: pem}});
        let map: ConfigMap = serde_json::from_value(map).map_err(|e| e.to_string())?;
        let made = self.maps().create(&PostParams::default(), &map).await;
        made.map(drop).map_err(|e| format!("ConfigMap {namespace}/{name}: {}", chain(&e)))
    }

    async fn read(&self, namespace: &str, name: &str) -> Result<Option<Value>, String> {
        let what = |why: String| format!("Secret {namespace}/{name}: {why}");
        let list = match list_one(&self.client, namespace, name).await {
            Ok(list) => list,
            // The answer is not quoted.
            Err(kube::Error::SerdeError(_)) => return Err(what("the API's answer cannot be read".into())),
            Err(e) => return Err(what(chain(&e))),
        };
        let found = list.items.into_iter().find(|object| object.metadata.name.as_deref() == Some(name));
        found.map(serde_json::to_value).transpose().map_err(|_| what("it cannot be read".into()))
    }

    /// Makes a Secret, or replaces the one of this name if it is still as it was read. The client does not read the answer, which it
    /// would log if it could not.
    async fn put(&self, namespace: &str, name: Option<&str>, mut body: Value) -> Result<(), kube::Error> {
        (body["apiVersion"], body["kind"]) = (json!("v1"), json!("Secret"));
        body["metadata"]["namespace"] = namespace.into();
        let bytes = serde_json::to_vec(&body).map_err(kube::Error::SerdeError)?;
        let request = Request::new(Secret::url_path(&(), Some(namespace)));
        let request = match name {
            None => request.create(&PostParams::default(), bytes),
            Some(name) => request.replace(name, &PostParams::default(), bytes),
        };
        self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
    }

    /// Makes the Event of a fault, or renews it.
    async fn tell(&self, told: &Told) -> Result<(), kube::Error> {
        let api: Api<Object> =
            Api::namespaced_with(self.client.clone(), &told.namespace, &resource::<Event>());
        let now = Timestamp::now();
        let object: Object = serde_json::from_value(told.body(now)).map_err(kube::Error::SerdeError)?;
        match api.create(&PostParams::default(), &object).await {
            Err(e) if status_code(&e) == Some(409) => {
                let patch = json!({"lastTimestamp": object.data["lastTimestamp"]});
                api.patch(&told.name(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}
