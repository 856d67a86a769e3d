//! NATS: our own small synchronous client, and on it what the daemon says and hears.
