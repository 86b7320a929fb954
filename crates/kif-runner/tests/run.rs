//! Runs inside this process.

use std::path::Path;

use kif_io::signal::StopFlag;
use kif_model::Adapter;
use kif_protocol::Protocol;

/// The adapter directory of a run of `kif bench`.
#[test]
fn a_run_leaves_all_adapters_in_one_directory() {
    let folder = tempfile::tempdir().unwrap();
    let mut protocol = Protocol::load("quick").unwrap();
    protocol.methods = vec!["o_lora".into()];
    protocol.seeds = vec![1];
    protocol.training.epochs = 1;
    protocol.limits.train_rows = Some(8);
    protocol.limits.test_rows = Some(4);
    protocol.check().unwrap();
    let run =
        |out: &Path, protocol: &Protocol| kif_runner::run::run(protocol, out, &StopFlag::default());
    run(folder.path(), &protocol).unwrap();
    let adapter = Adapter::read(&folder.path().join("cells/o_lora-o1-s1/adapter")).unwrap();
    assert_eq!((adapter.config.rank, adapter.config.alpha), (40, 160.0));

    protocol.adapter.rank = 64;
    let error = run(&folder.path().join("large"), &protocol)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("o_lora keeps 5 adapters of rank 64 side by side: LoRA rank: 320 is outside 1..=256; lower adapter.rank"),
        "{error}"
    );
}
