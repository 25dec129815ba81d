/* What C code in a plugin may do before anybody asks it to, and keep for each thread. */

static int constructed;
static __thread long calls;
static int opened;

__attribute__((constructor)) static void construct(void) {
    constructed = 1;
    opened += 1;
}

__attribute__((destructor)) static void destruct(void) {
    constructed = 0;
}

int reseat_tests_was_constructed(void) {
    return constructed && opened == 1;
}

long reseat_tests_calls_on_this_thread(void) {
    return ++calls;
}
