//! Joining a server with a token.
