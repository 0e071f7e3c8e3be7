//! The embedded files follow `web/dist`, also when one is added there.

fn main() {
    println!("cargo::rerun-if-changed=../../web/dist");
}
