//! Following the tables that Gateways are made of.

use crate::compile::{Engine, GatewayRow};
use crate::config::Tables;
use warren_store::{Record, Update, Watch};
use warren_types::{Gateway, GatewayClass, GrpcRoute, HttpRoute, NamespaceState, ReferenceGrant};

/// A watch of each. None of them is waited for: where the Gateway API is not served, and before that is known, there are
/// no Gateways.
pub(super) struct Watches {
    classes: Watch<GatewayClass>,
    gateways: Watch<Gateway>,
    http: Watch<HttpRoute>,
    grpc: Watch<GrpcRoute>,
    grants: Watch<ReferenceGrant>,
    namespaces: Watch<NamespaceState>,
}

fn tell<R: Record + GatewayRow>(engine: &mut Engine, update: Update<R>) {
    for (key, row) in update.rows_by_key(|| engine.known_gateway_rows::<R>()) {
        engine.set_gateway_row(&key, row);
    }
}

fn drain<R: Record + GatewayRow>(engine: &mut Engine, watch: &mut Watch<R>) {
    while let Some(update) = watch.try_next() {
        tell(engine, update);
    }
}

impl Watches {
    pub(super) fn of(tables: &Tables) -> Self {
        Self {
            classes: tables.gateway_classes.watch(),
            gateways: tables.gateways.watch(),
            http: tables.http_routes.watch(),
            grpc: tables.grpc_routes.watch(),
            grants: tables.grants.watch(),
            namespaces: tables.namespaces.watch(),
        }
    }

    /// Takes the next change; none when the store is closed.
    pub(super) async fn next(&mut self, engine: &mut Engine) -> Option<()> {
        tokio::select! {
            update = self.classes.next() => tell(engine, update?),
            update = self.gateways.next() => tell(engine, update?),
            update = self.http.next() => tell(engine, update?),
            update = self.grpc.next() => tell(engine, update?),
            update = self.grants.next() => tell(engine, update?),
            update = self.namespaces.next() => tell(engine, update?),
        }
        Some(())
    }

    /// Takes all that has come.
    pub(super) fn take_what_is_there(&mut self, engine: &mut Engine) {
        drain(engine, &mut self.classes);
        drain(engine, &mut self.gateways);
        drain(engine, &mut self.http);
        drain(engine, &mut self.grpc);
        drain(engine, &mut self.grants);
        drain(engine, &mut self.namespaces);
    }
}
