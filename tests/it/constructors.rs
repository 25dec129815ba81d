use std::time::Duration;

use reseat::Step;
use reseat_tests::echo::Echo;

use crate::child::in_child_with;
use crate::scene::{Build, Hold, Scene};

#[test]
fn a_constructor_that_hangs_is_named_and_what_serves_serves_on_and_all_is_well_when_it_returns() {
    let name = "constructors::a_constructor_that_hangs_is_named_and_what_serves_serves_on_and_all_is_well_when_it_returns";
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    in_child_with(name, &[("RESEAT_HOLD", &hold.until())], || {
        let hold = Hold::at(std::env::var_os("RESEAT_HOLD").unwrap().into());
        let scene = Scene::with_options(&["echo_v1"], |options| {
            options.hook_deadline = Duration::from_secs(2);
        });
        let echo = scene.handle::<dyn Echo>("echo");
        assert_eq!(echo.enter().unwrap().build().unwrap(), 1);
        let refused = scene.install("hangs_in_constructor").refused();
        refused.at(Step::Open, &["its constructors have not returned within 2s", "what serves, serves on"]);
        hold.entered();
        // This thread has called before: none can begin, since the loader is locked, in the C library.
        assert_eq!(echo.enter().unwrap().build().unwrap(), 1);
        scene.lingers("hangs_in_constructor", 1, &["its constructors have not returned"]);

        hold.release();
        scene.settled();
        assert_eq!(scene.install(Build::of("echo_stamped").stamped(3)).published(), 2);
        scene.unloaded("echo", 1);
        scene.settled();
        assert_eq!(scene.staged(), 1);
    });
}
