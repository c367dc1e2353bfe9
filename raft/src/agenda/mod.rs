//! What a channel has yet to do, and when: jobs of agents and scheduled messages.

mod node;
