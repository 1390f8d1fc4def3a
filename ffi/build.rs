//! Gives the shared library its soname: what programs that link it will ask for at run time.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // The number is `TERSA_ABI_VERSION`; a test compares the two.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libtersa.so.0");
    }
}
