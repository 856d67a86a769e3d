//! Why a call of a tool was not run, for the model, for callers and for records.

use super::error::ErrorKind;
use serde_json::{Value, json};
use std::sync::Arc;

/// A call that the gate did not let through.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Denial {
    pub by: DeniedBy,
    /// The rule that asked or denied; absent where none matched.
    pub rule: Option<Arc<str>>,
}

/// Who or what denied it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DeniedBy {
    Rule,
    /// It needs an approval, and nobody is there who could give one.
    Nobody,
    /// Somebody said no, with these words.
    Person(String),
    /// Nobody settled it in so many seconds.
    Time(u64),
    /// What it was needed for has ended.
    End,
}

impl Denial {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self.by {
            DeniedBy::Time(_) => ErrorKind::ApprovalExpired,
            DeniedBy::Rule | DeniedBy::Nobody | DeniedBy::Person(_) | DeniedBy::End => ErrorKind::Denied,
        }
    }

    /// The word for programs.
    pub(crate) fn by(&self) -> &'static str {
        match self.by {
            DeniedBy::Rule => "rule",
            DeniedBy::Nobody => "nobody",
            DeniedBy::Person(_) => "person",
            DeniedBy::Time(_) => "time",
            DeniedBy::End => "end",
        }
    }

    /// The reason in one sentence.
    pub(crate) fn reason(&self) -> String {
        let rule = self
            .rule
            .as_deref()
            .map_or_else(|| "what holds where no rule matches".into(), |rule| format!("the rule \"{rule}\""));
        match &self.by {
            DeniedBy::Rule => format!("{rule} does not allow this call"),
            DeniedBy::Nobody => {
                format!("{rule} wants a person's approval for this call, and nobody is there to give it")
            }
            DeniedBy::Person(said) if said.is_empty() => "a person did not approve this call".into(),
            DeniedBy::Person(said) => format!("a person did not approve this call, and said: {said}"),
            DeniedBy::Time(seconds) => {
                format!("{rule} wants a person's approval for this call, and nobody gave it within {seconds} s")
            }
            DeniedBy::End => "the work that it was part of has ended".into(),
        }
    }

    /// What the model is told, so that it can go on.
    pub(crate) fn text(&self) -> String {
        format!(
            "{}: {}. The call was not run. Do not try the same in another way; go on without it, or say what you would need it \
             for.",
            self.kind().code(),
            self.reason()
        )
    }

    /// As events and session files have it.
    pub(crate) fn document(&self) -> Value {
        json!({"error": self.kind().code(), "status": self.kind().status(), "by": self.by(),
            "rule": self.rule.as_deref(), "reason": self.reason()})
    }

    /// What [`Denial::record`] wrote.
    pub(crate) fn from_record(record: &Value, rule: Option<Arc<str>>) -> Denial {
        let said = || record["said"].as_str().unwrap_or_default().to_owned();
        let by = match record["by"].as_str() {
            Some("nobody") => DeniedBy::Nobody,
            Some("person") => DeniedBy::Person(said()),
            Some("time") => DeniedBy::Time(record["seconds"].as_u64().unwrap_or_default()),
            Some("end") => DeniedBy::End,
            Some(_) | None => DeniedBy::Rule,
        };
        Denial { by, rule }
    }

    /// The facts that it can be made of again.
    pub(crate) fn record(&self) -> Value {
        match &self.by {
            DeniedBy::Person(said) => json!({"by": self.by(), "said": said}),
            DeniedBy::Time(seconds) => json!({"by": self.by(), "seconds": seconds}),
            DeniedBy::Rule | DeniedBy::Nobody | DeniedBy::End => json!({"by": self.by()}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_say_why_and_survive_being_written() {
        let rule: Option<Arc<str>> = Some("bash git push*".into());
        for (by, code, word) in [
            (DeniedBy::Rule, "denied", "does not allow"),
            (DeniedBy::Nobody, "denied", "nobody is there"),
            (DeniedBy::Person("use main".into()), "denied", "said: use main"),
            (DeniedBy::Person(String::new()), "denied", "did not approve"),
            (DeniedBy::Time(600), "approval_expired", "within 600 s"),
            (DeniedBy::End, "denied", "has ended"),
        ] {
            let denial = Denial { by, rule: rule.clone() };
            let text = denial.text();
            assert!(
                text.starts_with(&format!("{code}: ")) && text.contains(word) && text.contains("was not run"),
                "{text}"
            );
            assert_eq!(
                (&denial.document()["error"], &denial.document()["rule"]),
                (&json!(code), &json!("bash git push*"))
            );
            assert_eq!(Denial::from_record(&denial.record(), rule.clone()), denial);
        }
    }
}
