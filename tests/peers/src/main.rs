//! The conversation of tests/e2e/test_peers.py in NATS's asynchronous client for Rust.

use async_nats::{Client, HeaderMap};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::error::Error;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn say(step: &str, answer: impl Into<Value>) {
    println!("{}", json!({"step": step, "answer": answer.into()}));
}

/// The text of a stream, which an empty message ends.
async fn stream(client: &Client, subject: String, headers: HeaderMap, payload: String) -> Result<String> {
    let inbox = client.new_inbox();
    let mut messages = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply_and_headers(subject, inbox, headers, payload.into()).await?;
    let mut text = String::new();
    loop {
        let message = tokio::time::timeout(PATIENCE, messages.next()).await?.ok_or("the subscription has ended")?;
        if message.payload.is_empty() {
            return Ok(text);
        }
        text.push_str(std::str::from_utf8(&message.payload)?);
    }
}

/// The first answers of services, so many.
async fn ask_services(client: &Client, subject: &'static str, wanted: usize) -> Result<Vec<Value>> {
    let inbox = client.new_inbox();
    let mut messages = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply(subject, inbox, "".into()).await?;
    let mut answers = Vec::new();
    while answers.len() < wanted {
        let message = tokio::time::timeout(PATIENCE, messages.next()).await?.ok_or("the subscription has ended")?;
        answers.push(serde_json::from_slice(&message.payload)?);
    }
    Ok(answers)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, owner, cwd] = arguments.as_slice() else { return Err("URL OWNER CWD".into()) };
    let intake = format!("agents.pi-exec.{owner}");
    // Without a name, CONNECT has nulls in it.
    let client = async_nats::connect(url).await?;

    let list = client.request(intake.clone(), json!({"sessionMode": "list"}).to_string().into()).await?;
    let list: Value = serde_json::from_slice(&list.payload)?;
    say("list", list["sessions"].as_array().map_or(0, Vec::len));

    let create = json!({"sessionMode": "session", "sessionId": "peer", "body": "hi", "cwd": cwd}).to_string();
    say("stream", stream(&client, intake.clone(), HeaderMap::new(), create).await?);

    let mut once = HeaderMap::new();
    once.insert("Nats-Msg-Id", "once");
    say("headers", stream(&client, format!("{intake}.peer"), once, "again".into()).await?);

    let stop = json!({"sessionMode": "stop", "sessionId": "nobody"}).to_string();
    let refused = client.request(intake, stop.into()).await?;
    let code = refused.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
    say("error", code.map_or("none", |code| code.as_str()));

    match client.request("nobody.there", "".into()).await {
        Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => say("no responders", "none"),
        other => say("no responders", format!("{other:?}")),
    }

    let services = ask_services(&client, "$SRV.INFO.pi-exec", 2).await?;
    say("services", services.iter().filter(|info| info["name"] == "pi-exec").count());
    let stats = ask_services(&client, "$SRV.STATS.pi-exec", 2).await?;
    let endpoints = stats.iter().filter_map(|stats| stats["endpoints"].as_array()).flatten();
    say("counted", endpoints.filter_map(|endpoint| endpoint["num_requests"].as_u64()).sum::<u64>() > 0);

    let (mut one, mut two) =
        (client.queue_subscribe("peer.*", "q".into()).await?, client.queue_subscribe("peer.*", "q".into()).await?);
    for number in 0..10 {
        client.publish(format!("peer.{number}"), "".into()).await?;
    }
    let mut shared = 0;
    while shared < 10 {
        tokio::select! {
            Some(_) = one.next() => shared += 1,
            Some(_) = two.next() => shared += 1,
            () = tokio::time::sleep(PATIENCE) => break,
        }
    }
    say("queue group", shared);
    client.drain().await?;
    Ok(())
}
