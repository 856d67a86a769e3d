mod bash;

use super::*;
use bash::Bash;
use std::time::{Duration, Instant};

/// A command's simple commands with `_` for what is not known yet; `!` in front if it does more than run them, and nothing
/// but `?` if it cannot be taken apart.
fn shown(command: &str) -> String {
    match Script::read(command) {
        Err(Unreadable) => "?".to_owned(),
        Ok(script) => {
            let texts: Vec<String> = script.commands.iter().map(|simple| simple.text.replace(ANY, "_")).collect();
            format!("{}{}", if script.does_more { "!" } else { "" }, texts.join(" | "))
        }
    }
}

#[test]
fn real_commands_are_taken_apart() {
    for (command, expected) in [
        // Lists.
        ("git push", "git push"),
        ("  git   push  origin\tmain ", "git push origin main"),
        ("cargo test && git push", "cargo test | git push"),
        ("make || git push; ls", "make | git push | ls"),
        ("ls | wc -l", "ls | wc -l"),
        ("ls |& wc", "ls | wc"),
        ("sleep 5 & git push", "sleep 5 | git push"),
        ("ls\ngit push\n", "ls | git push"),
        ("ls # git push", "ls"),
        ("# git push\nls", "ls"),
        ("echo a#b", "echo a#b"),
        ("", ""),
        ("cd /srv && git pull --ff-only", "cd /srv | git pull --ff-only"),
        ("! git push", "git push"),
        ("time -p git push", "git push"),
        ("git \\\n  push", "git push"),
        ("git\\\n push", "?"),
        // Quotes.
        ("'git' push", "git push"),
        ("g'i't \"pu\"sh", "git push"),
        ("\\git push", "git push"),
        ("git commit -m 'a; rm -rf /'", "git commit -m a; rm -rf /"),
        ("git commit -m \"it's \\\"so\\\"\"", "git commit -m it's \"so\""),
        ("echo $'a\\tb'", "echo a\tb"),
        ("$'\\x67it' push", "?"),
        ("$\"git\" push", "?"),
        ("echo \"a", "?"),
        ("echo 'a", "?"),
        ("echo a\\", "?"),
        // Expansions.
        ("echo $HOME", "echo_"),
        ("echo \"$HOME\"", "echo _"),
        ("git $X", "git_"),
        ("git $A push", "git_push"),
        ("ls ${DIR:-src}/*.rs", "ls _/_.rs"),
        ("ls ~/x", "ls _/x"),
        ("rm [abc]x", "rm _"),
        ("[ -f a ]", "[ -f a ]"),
        ("git {push,pull}", "git_"),
        ("echo $((1 + 2))", "echo _"),
        ("echo $((x))", "?"),
        ("echo ${x@P}", "?"),
        ("echo ${!x}", "?"),
        ("echo ${a[@]}", "echo_"),
        ("echo ${a[i]}", "?"),
        ("echo ${#a} $? $#", "echo _ _ _"),
        ("$X push", "?"),
        ("\"$X\" push", "?"),
        ("g?t push", "?"),
        // Substitutions.
        ("echo $(git push)", "!git push | echo_"),
        ("echo \"$(git push)\"", "!git push | echo _"),
        ("echo `git push`", "!git push | echo_"),
        ("echo `echo \\`git push\\``", "?"),
        ("echo $(echo $(git push))", "!git push | echo_ | echo_"),
        ("diff <(git push) <(ls)", "!git push | ls | diff _ _"),
        ("tee >(git push)", "!git push | tee _"),
        ("echo ${x:-$(git push)}", "!git push | echo_"),
        ("X=$(git push)", "!git push"),
        ("echo \"${x:-'a}\"", "?"),
        ("echo $(git push", "?"),
        // Assignments and redirections.
        ("A=1 B=2 git push", "!git push"),
        ("A=1", "!"),
        ("a=(1 2)", "?"),
        ("a[0]=1", "?"),
        ("PS4='$(git push)' bash -xc :", "?"),
        ("git log > out.txt", "!git log"),
        ("git log >> out.txt 2>&1", "!git log"),
        ("git log 2>/dev/null", "git log"),
        ("git log &> out", "!git log"),
        (">out git push", "!git push"),
        ("2>&1 git push", "git push"),
        ("sort < in", "sort"),
        ("cat </dev/tcp/1.2.3.4/80", "!cat"),
        ("echo 2>a 3 >b", "!echo 3"),
        ("{ git push; } > out", "!git push"),
        ("(cd x; git push) 2>&1 | tail", "cd x | git push | tail"),
        ("wc <<< \"$(git push)\"", "!git push | wc"),
        ("cat <<EOF\n$(git push)\nEOF\nls", "!cat | git push | ls"),
        ("cat <<'EOF'\n$(git push)\nEOF\nls", "cat | ls"),
        ("cat <<-EOF | tail\n\ta\n\tEOF\nls", "cat | tail | ls"),
        ("cat <<A <<B\na\nA\nb\nB\nls", "cat | ls"),
        ("cat <<EOF\nnever ends", "?"),
        ("cat <<EOF\na\\\nEOF\nEOF\n", "?"),
        // Commands that run others.
        ("env A=1 git push", "!env A=1 git push | git push"),
        ("env -i -u X git push", "!env -i -u X git push | git push"),
        ("env -S 'git push'", "?"),
        ("nohup git push &", "!nohup git push | git push"),
        ("timeout -k 5 10s git push", "!timeout -k 5 10s git push | git push"),
        ("timeout $T git push", "?"),
        ("timeout \"$T\" git push", "?"),
        ("timeout 1\"$T\" git push", "!timeout 1_ git push | git push"),
        ("nice -n 5 nohup git push", "!nice -n 5 nohup git push | nohup git push | git push"),
        ("xargs -n1 git", "!xargs -n1 git | git_"),
        ("xargs -I% git %", "?"),
        ("xargs sh -c", "?"),
        ("sudo -u bob git push", "!sudo -u bob git push | git push"),
        ("sudo -s", "?"),
        ("sh -c 'git push'", "!sh -c git push | git push"),
        ("/bin/bash -lc \"cd x && git push\"", "!/bin/bash -lc cd x && git push | cd x | git push"),
        ("bash -euo pipefail -c 'git push' x", "!bash -euo pipefail -c git push x | git push"),
        ("bash -c \"$X\"", "?"),
        ("echo 'git push' | bash", "?"),
        ("bash build.sh", "bash build.sh"),
        ("bash /dev/stdin", "?"),
        ("sh -c 'sh -c \"git push\"'", "!sh -c sh -c \"git push\" | sh -c git push | git push"),
        ("eval git push", "!eval git push | git push"),
        ("eval \"$X\"", "?"),
        ("trap 'git push' EXIT", "!trap git push EXIT | git push"),
        ("command -v git", "!command -v git"),
        ("command git push", "!command git push | git push"),
        ("exec git push", "!exec git push | git push"),
        ("find . -name '*.rs' -exec git add {} +", "!find . -name *.rs -exec git add {} + | git add _"),
        ("find . -exec sh -c 'git push' \\;", "!find . -exec sh -c git push ; | sh -c git push | git push"),
        ("find \"$D\" -name x", "find _ -name x"),
        ("find $D -name x", "?"),
        ("flock x git push", "?"),
        ("parallel git ::: push", "?"),
        ("source env.sh", "source env.sh"),
        (". <(echo git push)", "?"),
        // Compound commands.
        ("if git push; then ls; else rm x; fi", "git push | ls | rm x"),
        ("while git push; do ls; done > out", "!git push | ls"),
        ("for f in a b; do git add \"$f\"; done", "!git add _"),
        ("for f in $(git push); do ls; done", "!git push | ls"),
        ("for ((;;)); do ls; done", "?"),
        ("case x in x) git push;; esac", "?"),
        ("f() { git push; }; f", "?"),
        ("function f { git push; }", "?"),
        ("[[ -f x ]] && git push", "?"),
        ("((x)) && git push", "?"),
        ("coproc git push", "?"),
        ("alias ls='git push'", "?"),
        ("shopt -s extglob", "?"),
        ("set -euo pipefail; git push", "set -euo pipefail | git push"),
        ("set -k", "?"),
        ("declare -i x='a[$(git push)]'", "?"),
        ("[ -v 'a[$(git push)]' ]", "?"),
        ("[ \"$a\" = \"$b\" ] && ls", "[ _ = _ ] | ls"),
        ("printf -v 'a[$(git push)]' x", "?"),
        ("read 'a[$(git push)]'", "?"),
        ("export PATH=\"$HOME/bin:$PATH\"", "export PATH=_/bin:_"),
        ("git\u{a0}push", "?"),
        ("git\rpush", "?"),
        ("ls\0", "?"),
    ] {
        assert_eq!(shown(command), expected, "{command:?}");
    }
}

#[test]
fn tables_are_in_order_and_depth_is_bounded() {
    assert_eq!(shown("zsh -c 'git push'"), "?");
    for name in ["alias", "watch", "zsh", "flock", "doas", "su"] {
        assert_eq!(shown(&format!("{name} git push")), "?", "{name}");
    }
    let deep = format!("{}ls{}", "$(".repeat(20_000), ")".repeat(20_000));
    assert_eq!(shown(&format!("echo {deep}")), "?");
    assert_eq!(shown(&format!("{}ls{}", "(".repeat(20_000), ")".repeat(20_000))), "?");
    assert_eq!(shown(&format!("{}ls", "env ".repeat(20_000))), "?");
    let long = format!("echo {}", "x ".repeat(50_000));
    let begun = Instant::now();
    assert!(Script::read(&long).is_ok() && begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn nothing_breaks_the_reader() {
    let mut random = Random(11);
    let signs = "$(){}[]<>|&;\"'`\\\n #!*?~=:-+@a1 ";
    let signs: Vec<char> = signs.chars().collect();
    for _ in 0..20_000 {
        let text: String = (0..random.below(24)).map(|_| signs[random.below(signs.len())]).collect();
        let _ = Script::read(&text);
    }
}

/// What bash does with a command is what the reader says, or less.
#[test]
fn bash_runs_nothing_that_is_not_named() {
    let rounds = std::env::var("SHELL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120_u64);
    let seed = std::env::var("SHELL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7_u64);
    let bash = Bash::new();
    let mut random = Random(seed);
    let (mut taken_apart, mut ran) = (0, 0);
    for _ in 0..rounds {
        let command = random.list(3);
        if Script::read(&command).is_err() {
            continue;
        }
        taken_apart += 1;
        for done in bash.run(&command, Duration::from_secs(20)) {
            ran += 1;
            assert_eq!(names(&command, &done), Some(true), "{command:?} runs {done:?}, not {}", shown(&command));
        }
    }
    assert!(taken_apart > rounds / 8 && ran > rounds / 16, "{taken_apart} of {rounds}, {ran} commands");
}

/// Numbers that are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }

    fn word(&mut self) -> String {
        let pieces = [
            "git", "push", "ls", "a", "'", "\"", "\\", "$X", "$S", "${X}", "\"$S\"", "'ls'", "-c", "{}", "=", "*", "#",
            "$", "~", "{a,b}", "\\ ", "$(git a)", "`ls b`", "$'\\t'", "!", ",", "[", "]", "${X:-ls}", "$((1))", "\"",
            "\\\n", "&", ">f", "<(ls p)",
        ];
        let usual =
            ["git", "push", "ls", "rm", "a", "-c", "$X", "'git push'", "\"ls a\"", "g''it", "\\ls", "$S", "\"$S\""];
        if self.below(3) > 0 {
            return self.of(&usual).to_owned();
        }
        (0..=self.below(3)).map(|_| self.of(&pieces)).collect()
    }

    fn simple(&mut self) -> String {
        let before = [
            "",
            "",
            "",
            "",
            "A=1 ",
            "env ",
            "env A=b ",
            "nohup ",
            "timeout 5 ",
            "timeout -k 1 5 ",
            "command ",
            "exec ",
            "eval ",
            "sh -c ",
            "bash -c ",
            "xargs ",
            "echo ls | xargs ",
            "nice -n 1 ",
            "! ",
            "time ",
            "find . -maxdepth 0 -exec ",
            "2>&1 ",
            ">/dev/null ",
            "trap ",
            "if ",
            "{ ",
            "( ",
        ];
        let after = [
            "",
            "",
            "",
            "",
            " >f",
            " 2>/dev/null",
            " ;",
            " \\;",
            " {} +",
            " # x",
            " }",
            " )",
            "; then ls; fi",
            " <<< $X",
            " &>f",
            " <<E\n$(git h)\nE\n",
            " <<'E'\n$(git h)\nE\n",
            " EXIT",
        ];
        let words: Vec<String> = (0..=self.below(3)).map(|_| self.word()).collect();
        format!("{}{}{}", self.of(&before), words.join(" "), self.of(&after))
    }

    fn list(&mut self, depth: usize) -> String {
        let mut text = String::new();
        for _ in 0..=self.below(2) {
            let inner = if depth > 0 && self.below(4) == 0 {
                let list = self.list(depth - 1);
                match self.below(5) {
                    0 => format!("({list})"),
                    1 => format!("echo $({list})"),
                    2 => format!("{{ {list}; }}"),
                    3 => format!("for f in a; do {list}; done"),
                    _ => format!("if {list}; then git t; fi"),
                }
            } else {
                self.simple()
            };
            if !text.is_empty() {
                text.push_str(self.of(&["; ", " && ", " || ", " | ", " & ", "\n", ";", "&&"]));
            }
            text.push_str(&inner);
        }
        text
    }
}
