//! What child processes may see of the daemon's environment.

/// Variables that programs need to behave as their user expects; none of them is a secret.
const ALLOWED: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "TZ", "TMPDIR"];

/// What programs get unless it is said otherwise: git fails at once instead of asking for a password where nobody is.
const DEFAULTS: [(&str, &str); 1] = [("GIT_TERMINAL_PROMPT", "0")];

/// The environment of a child process: of `inherit` only what is known to be harmless (locale included) or named in
/// `extra_names`, then `added`, which wins, as both do over the defaults. It is a list of what may pass, not of what may not, because a secret that
/// nobody thought of must stay behind too.
pub(crate) fn child_environment(
    inherit: &[(String, String)],
    extra_names: &[String],
    added: &[(String, String)],
) -> Vec<(String, String)> {
    let passes = |name: &str| {
        ALLOWED.contains(&name) || name.starts_with("LC_") || extra_names.iter().any(|extra| extra == name)
    };
    let mut result = DEFAULTS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    for (name, value) in inherit.iter().filter(|(name, _)| passes(name)).chain(added) {
        // The system takes no such entry: the child could not even be started.
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            continue;
        }
        match result.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1.clone_from(value),
            None => result.push((name.clone(), value.clone())),
        }
    }
    result
}

/// Has git run no hooks of repositories.
pub(crate) fn without_hooks(environment: &mut Vec<(String, String)>) {
    let count = environment.iter().position(|(name, _)| name == "GIT_CONFIG_COUNT").map(|at| environment.remove(at).1);
    let next = count.and_then(|count| count.parse::<u32>().ok()).unwrap_or_default();
    let more = [
        ("GIT_CONFIG_COUNT".to_owned(), (next + 1).to_string()),
        (format!("GIT_CONFIG_KEY_{next}"), "core.hooksPath".to_owned()),
        (format!("GIT_CONFIG_VALUE_{next}"), "/dev/null".to_owned()),
    ];
    environment.extend(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn secrets_stay_behind() {
        let inherit = pairs(&[
            ("PATH", "/bin"),
            ("HOME", "/root"),
            ("ANTHROPIC_API_KEY", "sk"),
            ("NATS_PASSWORD", "p"),
            ("AWS_SECRET_ACCESS_KEY", "k"),
            ("LC_ALL", "C"),
            ("PATHX", "no"),
            ("LCX", "no"),
            ("GOPATH", "/go"),
            ("LD_PRELOAD", "/evil.so"),
        ]);
        let seen = child_environment(&inherit, &["GOPATH".to_owned()], &[]);
        let git = ("GIT_TERMINAL_PROMPT", "0");
        assert_eq!(seen, pairs(&[git, ("PATH", "/bin"), ("HOME", "/root"), ("LC_ALL", "C"), ("GOPATH", "/go")]));
    }

    #[test]
    fn added_variables_win_and_impossible_ones_are_dropped() {
        let inherit = pairs(&[("PATH", "/bin"), ("TERM", "xterm"), ("LC_\0", "x"), ("LC_A=B", "x"), ("TZ", "a\0b")]);
        let git = ("GIT_TERMINAL_PROMPT", "1");
        let path = ("PATH", "/agent/bin:/bin");
        let added = pairs(&[path, ("PI_SESSION_ID", "s"), ("", "x"), ("A", "1"), ("A", "2"), git]);
        let seen = child_environment(&inherit, &[], &added);
        assert_eq!(seen, pairs(&[git, path, ("TERM", "xterm"), ("PI_SESSION_ID", "s"), ("A", "2")]));
    }
}
