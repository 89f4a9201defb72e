#include <git2.h>

/// Repositories are read whoever owns them: what is looked at was restored a moment ago, perhaps for another account.
static inline int tidemark_git_trust_owners(void) { return git_libgit2_opts(GIT_OPT_SET_OWNER_VALIDATION, 0); }

/// No configuration is read from outside of a repository.
static inline int tidemark_git_ignore_configuration(git_config_level_t level) {
    return git_libgit2_opts(GIT_OPT_SET_SEARCH_PATH, level, "");
}
