//! The TUN link of the userspace tunnel.

use std::io;

use gotatun::tun::tun;
use gotatun::tun::tun_async_device::TunDevice;

/// Makes the TUN link `name`, down, with `mtu`: the way to it, and the way from it.
pub(crate) fn open(name: &str, mtu: u32) -> io::Result<(TunDevice, TunDevice)> {
    let mut config = tun::Configuration::default();
    config.tun_name(name).mtu(u16::try_from(mtu).unwrap_or(u16::MAX));
    let device = tun::create_as_async(&config).map_err(io::Error::other)?;
    let device = TunDevice::from_tun_device(device).map_err(io::Error::other)?;
    Ok((device.clone(), device))
}
