/// Runs a block when the library is opened, before anybody has asked it to do anything.
#[macro_export]
macro_rules! constructor {
    ($body:block) => {
        #[used]
        #[unsafe(link_section = ".init_array")]
        static CONSTRUCTOR: extern "C" fn() = {
            extern "C" fn constructor() {
                $body
            }
            constructor
        };
    };
}

/// A constructor that creates the file that the environment names in `RESEAT_CANARY`.
#[macro_export]
macro_rules! canary {
    () => {
        $crate::constructor!({
            if let Some(path) = std::env::var_os("RESEAT_CANARY") {
                std::fs::File::create(path).expect("the canary's place can be written");
            }
        });
    };
}
