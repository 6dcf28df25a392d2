use super::*;
use crate::disk::RealDisk;
use crate::disk::cut::CutDisk;
use std::os::unix::fs::PermissionsExt as _;

fn spec(root: &Path, role: Role) -> Spec {
    let program = root.join("new-program");
    fs::create_dir_all(root).unwrap();
    fs::write(&program, "\x7fELF one").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Spec {
        role,
        places: Places::below(root),
        init: Init::Systemd,
        program,
        settings: vec![
            ("server".into(), vec!["https://a:6443".into()]),
            ("token".into(), vec!["K10x".into()]),
        ],
        completions: COMPLETIONS.iter().map(|p| (*p, b"complete warren".to_vec())).collect(),
        replace: false,
    }
}

/// Every file below `root`: path, mode, content.
fn tree(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            if meta.is_dir() {
                dirs.push(path);
            } else {
                found.push((
                    path.clone(),
                    meta.permissions().mode() & 0o7777,
                    fs::read(&path).unwrap_or_default(),
                ));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_second_installation_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for role in [Role::Server, Role::Agent, Role::Kubernetes] {
        for init in [Init::Systemd, Init::Openrc, Init::None] {
            let root = dir.path().join(format!("{}-{init:?}", role.word()));
            let spec = Spec { init, ..spec(&root, role) };
            apply(&spec, &plan(&spec).unwrap(), &RealDisk).unwrap();
            let before = tree(&root);
            let again = plan(&spec).unwrap();
            assert!(again.iter().all(|s| s.change == Change::Unchanged), "{again:?}");
            apply(&spec, &again, &RealDisk).unwrap();
            assert_eq!(tree(&root), before);
            let mode = |path: &str| fs::metadata(spec.places.at(path)).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode("/etc/warren/config.yaml"), mode("/usr/local/bin/warren")), (0o600, 0o755));
            assert_eq!((mode("/var/lib/warren"), mode("/etc/warren")), (0o700, 0o700));
        }
    }
}

#[test]
fn services_are_enabled_by_links_that_lead_to_them_in_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), Role::Server);
    apply(&spec, &plan(&spec).unwrap(), &RealDisk).unwrap();
    for name in ["warren-server", "warren-agent"] {
        let link = spec.places.at(format!("/etc/systemd/system/multi-user.target.wants/{name}.service"));
        let to = fs::read_link(link).unwrap();
        assert!(fs::read_to_string(spec.places.at(&to)).unwrap().contains("ExecStart=/usr/local/bin/warren"));
    }
}

#[test]
fn cut_off_anywhere_every_file_is_whole_and_the_next_run_completes_it() {
    let dir = tempfile::tempdir().unwrap();
    let whole = spec(&dir.path().join("whole"), Role::Server);
    apply(&whole, &plan(&whole).unwrap(), &RealDisk).unwrap();
    let short = |root: &Path| -> Vec<(PathBuf, u32, Vec<u8>)> {
        tree(root).into_iter().map(|(p, m, c)| (p.strip_prefix(root).unwrap().to_owned(), m, c)).collect()
    };
    let wanted = short(&dir.path().join("whole"));
    let mut cuts = 0;
    for changes in 0.. {
        let root = dir.path().join(format!("cut-{changes}"));
        let spec = spec(&root, Role::Server);
        let cut = apply(&spec, &plan(&spec).unwrap(), &CutDisk::after(changes));
        let there = short(&root);
        assert!(there.iter().all(|file| wanted.contains(file)), "half a file after {changes} changes");
        if cut.is_ok() {
            break;
        }
        cuts += 1;
        apply(&spec, &plan(&spec).unwrap(), &RealDisk).unwrap();
        assert_eq!(short(&root), wanted, "after {changes} changes");
    }
    assert!(cuts > 10, "only {cuts} changes were cut");
}

#[test]
fn what_a_user_changed_stays_until_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), Role::Agent);
    apply(&spec, &plan(&spec).unwrap(), &RealDisk).unwrap();
    let unit = spec.places.at("/etc/systemd/system/warren-agent.service");
    let ours = fs::read_to_string(&unit).unwrap();
    let edited = ours.clone() + "# mine\n";
    fs::write(&unit, &edited).unwrap();
    assert!(matches!(plan(&spec), Err(InstallError::Edited(path)) if path == unit));
    let config = spec.places.config();
    let text = fs::read_to_string(&config).unwrap() + "mtu: 1300 # mine\n";
    fs::write(&config, &text).unwrap();
    fs::write(&unit, &ours).unwrap();
    let steps = plan(&spec).unwrap();
    apply(&spec, &steps, &RealDisk).unwrap();
    assert_eq!(fs::read_to_string(&config).unwrap(), text, "a key more is no difference");
    spec.settings[0].1 = vec!["https://b:6443".into()];
    assert!(matches!(plan(&spec), Err(InstallError::Config { .. })));
    fs::write(&unit, &edited).unwrap();
    spec.replace = true;
    apply(&spec, &plan(&spec).unwrap(), &RealDisk).unwrap();
    assert_eq!(fs::read_to_string(&unit).unwrap(), ours);
    assert_eq!(fs::read_to_string(unit.with_extension("service.old")).unwrap(), edited);
    assert_eq!(fs::read_to_string(config.with_extension("yaml.old")).unwrap(), text);
    assert!(fs::read_to_string(&config).unwrap().contains("https://b:6443"));
}

#[test]
fn what_an_earlier_version_wrote_is_replaced_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), Role::Agent);
    apply(&spec, &plan(&spec).unwrap(), &RealDisk).unwrap();
    let unit = spec.places.at("/etc/systemd/system/warren-agent.service");
    let old = "# Warren: of an earlier version\n";
    fs::write(&unit, old).unwrap();
    let mut record = Record::load(&spec.places);
    record.files.insert("/etc/systemd/system/warren-agent.service".into(), hash(old.as_bytes()));
    fs::write(spec.places.record(), serde_json::to_vec(&record).unwrap()).unwrap();
    let steps = plan(&spec).unwrap();
    assert_eq!(steps.iter().find(|s| s.path == unit).unwrap().change, Change::Replaced);
}

#[test]
fn files_that_the_service_could_not_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), Role::Kubernetes);
    spec.settings = vec![("kubeconfig".into(), vec!["/root/.kube/config".into()])];
    assert!(matches!(plan(&spec), Err(InstallError::Hidden(_))));
}

#[test]
fn only_our_files_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), Role::Server);
    assert!(installed(&spec.places).is_empty());
    apply(&spec, &plan(&spec).unwrap(), &RealDisk).unwrap();
    let found = installed(&spec.places);
    // Two units, two links, three completions; the program of this test carries no mark.
    assert_eq!(found.len(), 7, "{found:?}");
    fs::write(spec.places.program(), [b"\x7fELF ", PROGRAM_MARK].concat()).unwrap();
    assert_eq!(installed(&spec.places).len(), 8);
    fs::write(spec.places.at("/etc/systemd/system/warren-agent.service"), "[Unit]\n").unwrap();
    assert_eq!(installed(&spec.places).len(), 6, "a unit of somebody else and its link stay");
}
