//! nftables: the table `inet warren`, as a typed model, applied in atomic batches.
