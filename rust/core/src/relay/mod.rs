//! The relay server without sockets and clocks: how packets wait, and who goes first.
//!
//! | room | what it does |
//! |---|---|
//! | [`cutter`] | frames out of the pieces that a stream comes in |
//! | [`outbox`] | what waits for one client: a queue for each sender, served in turns |
//! | [`patience`] | how long a sender is held for a slow client |
//! | [`chunk`] | the memory that queues are made of, counted |
//! | [`seam`] | commands from Python, events to Python |
//!
//! A packet is copied twice: from its sender's stream behind others for the same client in a
//! chunk, and from the chunk, sealed, into what the socket gets.

pub mod chunk;
pub mod cutter;
pub mod outbox;
pub mod patience;
pub mod seam;
