//! Small tables beside `inet warren`, each made as a whole: those of a lab's routers and its switch.

use super::batch::Batch;
use super::model::Ruleset;
use super::open;
use super::ruleset::TableFamily;
use crate::{NetNs, NetlinkError};

/// Makes a table of `netns` hold this and nothing else, in one transaction. Without chains there is no table.
///
/// # Errors
/// When the kernel refuses an operation, which the error names; then nothing has changed.
pub async fn replace_table(
    netns: &NetNs,
    family: TableFamily,
    name: &'static str,
    ruleset: &Ruleset,
) -> Result<(), NetlinkError> {
    let mut connection = netns.run_async(open).await??;
    let mut batch = Batch::of(family, name);
    // What is not there cannot be deleted.
    batch.add_table();
    batch.delete_table();
    if !ruleset.chains.is_empty() {
        batch.add_table();
        batch.add_ruleset(ruleset);
    }
    let table = format!("nftables table {family} {name}");
    connection.commit(&batch, None).map_err(|failure| failure.named("replace", &table, Some(&batch)))
}
