use super::*;
use crate::tls::certified;

#[test]
fn certificates_come_from_the_secrets_that_are_named() {
    let mut world = World::new();
    let tls = |hosts: &[&str], secret: Option<&str>| IngressTls {
        hosts: hosts.iter().map(|name| host(name)).collect(),
        secret: secret.map(|name| warren_types::SecretName::new(name).unwrap()),
    };
    world.ingress(Ingress {
        tls: vec![tls(&["foo.test", "*.bar.test"], Some("good")), tls(&[], Some("rules")), tls(&[], None)],
        ..ingress("one", 1, &[rule("ruled.test", &[path("/", PathKind::Prefix, "a")])])
    });
    let compiled = world.compile();
    assert_eq!(wanted(&compiled), ["shop/good", "shop/rules"]);
    assert!(compiled.table.certificates().find(Some("foo.test")).is_none());
    assert_eq!(reasons(&compiled, "one"), Vec::<String>::new(), "they have not been read yet");

    let (chain, private) = self_signed("foo.test");
    world.secret("good", &[("tls.crt", &chain), ("tls.key", &private)]);
    world.secret("rules", &[("tls.crt", &chain)]);
    let compiled = world.compile();
    for name in ["foo.test", "x.bar.test"] {
        assert!(compiled.table.certificates().find(Some(name)).is_some(), "{name}");
    }
    assert!(compiled.table.certificates().find(Some("ruled.test")).is_none());
    assert_eq!(reasons(&compiled, "one"), ["SecretMissing"]);
    let (_, other) = self_signed("foo.test");
    world.secret("rules", &[("tls.crt", &chain), ("tls.key", &other)]);
    assert_eq!(reasons(&world.compile(), "one"), ["CertificateInvalid"]);
    world.secret("rules", &[("tls.crt", &chain), ("tls.key", &private)]);
    let compiled = world.compile();
    assert_eq!(reasons(&compiled, "one"), Vec::<String>::new());
    assert!(compiled.table.certificates().find(Some("ruled.test")).is_some());
}

#[test]
fn hosts_without_a_certificate_get_that_of_the_default_secret() {
    let mut world = World::new();
    assert!(world.compile().wanted.is_empty(), "nothing is served");
    let made = |host| {
        let (chain, private) = self_signed(host);
        (certified(&chain, &private).unwrap(), chain, private)
    };
    let fallback = made("fallback.test").0;
    world.0.set_certificate(fallback.clone());
    world.ingress(ingress("one", 1, &[rule("foo.test", &[path("/", PathKind::Prefix, "a")])]));
    let shown = |compiled: &Compiled| compiled.table.certificates().find(Some("foo.test")).unwrap().clone();
    let compiled = world.compile();
    assert!(wanted(&compiled).is_empty() && Arc::ptr_eq(&shown(&compiled), &fallback));
    let key = SecretRef::parse(DEFAULT).unwrap();
    let mut secret = |data: Option<&[(&str, &[u8])]>| {
        let data = data.map(|all| {
            all.iter().map(|(k, v)| ((*k).to_owned(), warren_types::SecretBytes::new(v.to_vec()))).collect()
        });
        let content = data.map(|data| SecretContent { kind: "kubernetes.io/tls".into(), data });
        world.0.set_secret(&key, Some(Arc::new(SecretObject { key: key.clone(), content })));
        world.compile()
    };
    let compiled = secret(None);
    assert!(compiled.default_fault.is_none() && Arc::ptr_eq(&shown(&compiled), &fallback));
    let (default, chain, private) = made("default.test");
    let compiled = secret(Some(&[("tls.crt", &chain), ("tls.key", &private)]));
    assert_eq!(
        (shown(&compiled).cert.clone(), &compiled.default),
        (default.cert.clone(), &Some(key.clone()))
    );
    let compiled = secret(Some(&[("tls.crt", b"nonsense"), ("tls.key", &private)]));
    assert_eq!(compiled.default_fault.as_ref().unwrap().reason, "CertificateInvalid");
    assert!(compiled.default.is_none() && Arc::ptr_eq(&shown(&compiled), &fallback));
    assert!(reasons(&compiled, "one").is_empty(), "no Ingress is to blame");
}

#[test]
fn a_private_certificate_is_asked_for_by_one_word() {
    let of = |value: &str| reasons(&annotated(&[("ingress.warren.dev/certificate", value)]), "one");
    assert_eq!(of("private"), Vec::<String>::new());
    assert_eq!(of("public"), ["AnnotationInvalid"]);
}
