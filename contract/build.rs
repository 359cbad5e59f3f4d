//! Compiles `proto/chunk.proto` with protox, so that no `protoc` needs to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/chunk.proto");
    let descriptors = protox::compile(["chunk.proto"], ["proto"])?;
    prost_build::Config::new()
        .bytes([".weir.chunk.v1.Chunk.chunk_id"])
        .compile_fds(descriptors)?;
    Ok(())
}
