//! Damaged files, foreign files and engines that fail.
