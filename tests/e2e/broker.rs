//! The embedded broker as a program that takes the place of nats-server in the end-to-end tests.
//!
//! It understands the flags with which the tests start a server, and of the configuration file what the broker has: a user
//! or a token, and `max_payload`. Anything else ends it with exit code 3, upon which the test is skipped.

use nats_pi_bridge::broker::{Broker, BrokerAuth, BrokerOptions};
use std::process::exit;

fn flag(name: &str) -> String {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().unwrap_or_else(|| panic!("{name} is missing"))
}

/// The words of the file: names, values and braces, without the punctuation that means nothing here.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in text.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_string());
        } else {
            words.extend(part.split([' ', ':', ',', '\n', '{', '}']).filter(|w| !w.is_empty()).map(str::to_string));
        }
    }
    words
}

fn options(text: &str) -> Option<BrokerOptions> {
    let mut options = BrokerOptions::default();
    let (mut user, mut password, mut token) = (None, None, None);
    let mut words = words(text).into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "authorization" => {}
            "user" => user = words.next(),
            "password" => password = words.next(),
            "token" => token = words.next(),
            "max_payload" => options.max_payload = words.next()?.parse().ok()?,
            _ => return None,
        }
    }
    if let Some(user) = user {
        options.auth = BrokerAuth::UserPassword { user, password: password.unwrap_or_default() };
    } else if let Some(token) = token {
        options.auth = BrokerAuth::Token(token);
    }
    Some(options)
}

fn main() {
    let text = std::fs::read_to_string(flag("--config")).expect("the configuration file is there");
    let Some(options) = options(&text) else { exit(3) };
    std::fs::write(flag("--log"), "the embedded broker keeps no log\n").expect("the log can be written");
    let address = format!("{}:{}", flag("--addr"), flag("--port")).parse().expect("an address");
    let _broker = Broker::start(address, options).expect("the port is free");
    loop {
        std::thread::park();
    }
}
