# What is done in the working folder of a session with `workspace: "git"`; see git_folder.rs. It runs where the session's tools run.
#
# AGENT_DO says what: `save` commits all that is in the folder and pushes it, `bring` brings the folder to what was pushed, `check`
# looks whether it could be brought to anything. The last line that begins with "workspace " says what came of it.
set -u
export LC_ALL=C
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_NAMESPACE

# The repository's hooks are for people's commits, and nothing is to stay running.
git() {
	command git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c gc.auto=0 -c maintenance.auto=false "$@"
}

succeed() {
	echo "workspace $*"
	exit
}

# Without passwords that stand in addresses.
fail() {
	code=$1
	shift
	why=$(printf '%s' "$*" | tail -n 5 | tr '\n' ' ' | sed 's#//[^/@ ]*@#//#g' | cut -c 1-400)
	echo "workspace failed $code $why"
	exit
}

in_copy() {
	(
		export GIT_INDEX_FILE="$index"
		git "$@"
	)
}

commit_of() {
	git rev-parse -q --verify "$1^{commit}" 2>/dev/null
}

# Finds the tree of all that is in the folder and not ignored. It is made in a copy of the user's index, with the times of that, by
# which git tells what it need not look into.
look() {
	rm -f "$index" "$index.lock"
	[ ! -e "$dir/index" ] || cp -p "$dir/index" "$index" || fail commit_failed "$dir/index cannot be copied"
	left_out=
	out=$(in_copy add -A --ignore-errors . 2>&1) || left_out=$out
	tree=$(in_copy write-tree 2>"$errors") || fail commit_failed "$(cat "$errors")"
}

fetch() {
	git fetch -q --refmap= --no-tags --no-prune --no-recurse-submodules "$remote" "$AGENT_REF" 2>&1
}

# The folder has nothing but what is in one of these commits.
is_one_of() {
	[ -z "$left_out" ] || fail folder_changed "$left_out"
	for known; do
		[ "$(git rev-parse -q --verify "$known^{tree}" 2>/dev/null)" != "$tree" ] || return 0
	done
	fail folder_changed "it has changes of its own: $(git diff-tree -r --name-only "${last:-HEAD}" "$tree" 2>&1 | head -n 5)"
}

# Which of these files, as they would be written, are there already. Folders are git's business.
in_the_way='for path; do if [ -L "$path" ] || { [ -e "$path" ] && [ ! -d "$path" ]; }; then echo "$path"; fi; done'

dir=$(git rev-parse --absolute-git-dir 2>&1) || fail no_repository "$dir"
index=$dir/${AGENT_REF##*/}.agent-index
errors=$index.errors
trap 'rm -f "$index" "$index.lock" "$errors"' EXIT
remote=origin
git remote get-url origin >/dev/null 2>&1 ||
	remote=$(git config "branch.$(git symbolic-ref -q --short HEAD).remote" 2>/dev/null) || remote=.
[ "$remote" != . ] || fail no_remote "there is neither an origin nor another upstream"
last=$(commit_of "$AGENT_REF") || last=
look

case $AGENT_DO in
check)
	is_one_of "$last" HEAD
	succeed ready
	;;
save)
	theirs=
	if [ -n "$AGENT_OVER" ]; then
		out=$(fetch) || fail fetch_failed "$out"
		theirs=$(commit_of FETCH_HEAD)
	fi
	head=$(commit_of HEAD) || head=
	commit=$last
	# The commit that was saved before comes first, so that first parents are what was saved, in order.
	set --
	[ -z "$last" ] || set -- -p "$last"
	for parent in "$theirs" "$head"; do
		[ -z "$parent" ] || { [ -n "$last" ] && git merge-base --is-ancestor "$parent" "$last"; } || set -- "$@" -p "$parent"
	done
	if [ $# -ne 2 ] || [ "$(git rev-parse -q --verify "$last^{tree}")" != "$tree" ]; then
		export GIT_AUTHOR_NAME=nats-pi-bridge GIT_AUTHOR_EMAIL=nats-pi-bridge@localhost
		export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL
		commit=$(git commit-tree "$@" -m "$AGENT_MESSAGE" "$tree" 2>"$errors") || fail commit_failed "$(cat "$errors")"
		out=$(git update-ref "$AGENT_REF" "$commit" 2>&1) || fail commit_failed "$out"
	fi
	if [ "$commit" != "$AGENT_PUSHED" ]; then
		out=$(git push --porcelain --no-verify --no-follow-tags --no-signed --recurse-submodules=no "$remote" "$commit:$AGENT_REF" 2>&1) ||
			case $out in
			*'[rejected]'*) fail push_behind "$out" ;;
			*) fail push_failed "$out" ;;
			esac
	fi
	[ -z "$left_out" ] || fail incomplete "$left_out"
	succeed saved "$commit"
	;;
bring)
	out=$(fetch) || case $out in
	*"find remote ref"*) succeed brought ;;
	*) fail fetch_failed "$out" ;;
	esac
	commit=$(commit_of FETCH_HEAD) || fail fetch_failed "$AGENT_REF is no commit"
	is_one_of "$commit" "$last" HEAD
	blocked=$(git diff-tree -r -z --name-only --diff-filter=A "$tree" "$commit" | xargs -0 -r sh -c "$in_the_way" sh)
	[ -z "$blocked" ] || fail folder_changed "in the way: $blocked"
	# What was saved here and never pushed is not lost.
	[ -z "$last" ] || git merge-base --is-ancestor "$last" "$commit" ||
		git update-ref "refs/agents-kept/${AGENT_REF##*/}/$last" "$last" || fail folder_changed "$last cannot be kept"
	# It refuses to write over what has changed since it was looked at.
	out=$(in_copy read-tree -m -u "$tree" "$commit" 2>&1) || fail folder_changed "$out"
	out=$(git update-ref "$AGENT_REF" "$commit" 2>&1) || fail fetch_failed "$out"
	succeed brought "$(git rev-list --first-parent --max-count=50 "$commit" | tr '\n' ' ')"
	;;
esac
