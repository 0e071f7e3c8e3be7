// Networks, groups, a router and a policy, each made in its dialog as the controller checks it; and what they then show.
import { readFileSync } from 'node:fs';
import { must, mustHaveNoBarriers, picture } from './browser.mjs';
import { BOOT_MS } from './guest.mjs';

export async function forms({ tally, page }) {
  const dialog = page.getByRole('dialog');

  await tally.test('a network, a group and a router are made in their dialogs', async () => {
    await page.goto('/networks?tab=list');
    await page.getByRole('button', { name: 'Create network' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('shop');
    await dialog.getByLabel('Subnet').fill('10.20.0.0/24');
    await dialog.getByLabel('Gateway').fill('10.21.0.1');
    await dialog.getByText('The controller has objections').waitFor();
    await dialog.getByLabel('Gateway').fill('10.20.0.1');
    await made('Create network', 'wide-light-create-network');
    await page.getByRole('row').filter({ hasText: '10.20.0.0/24' }).waitFor();

    await page.goto('/networks?tab=groups');
    await page.getByRole('button', { name: 'Create group' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('front');
    await dialog.getByRole('button', { name: 'Add a rule' }).click();
    await dialog.getByText('Rule 2:').waitFor();
    await made('Create group', 'wide-light-create-group');
    await page.getByRole('cell', { name: 'front' }).waitFor();

    await page.goto('/networks?tab=routing');
    await page.getByRole('button', { name: 'Create router' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('edge');
    await dialog.getByRole('checkbox', { name: 'shop' }).check();
    await made('Create router', 'wide-light-create-router');
    await page.getByRole('heading', { name: 'edge' }).waitFor();
  });

  await tally.test('a load balancer is made, and what it listens on is changed', async () => {
    await page.goto('/networks?tab=routing');
    await page.getByRole('button', { name: 'Create load balancer' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('entry');
    await dialog.getByLabel('Network', { exact: true }).selectOption('shop');
    await dialog.getByLabel('VMs behind it').fill('tier=web');
    await made('Create load balancer', 'wide-light-create-load-balancer');
    await page.getByText('takes TCP 80').waitFor();
    await page.getByRole('button', { name: 'More for entry' }).click();
    await page.getByRole('menuitem', { name: 'Change' }).click();
    await dialog.getByLabel('Listens on').fill('tcp:80, tcp:99999');
    await dialog.getByText('The controller has objections').waitFor();
    await dialog.getByLabel('Listens on').fill('tcp:80, tcp:443:8443');
    must((await dialog.locator('details pre').first().textContent()) === 'gantry load-balancer listen entry tcp:443:8443', 'the command line is not what is done');
    await made('Change load balancer', 'wide-light-change-load-balancer');
    await page.getByText('TCP 443 (to 8443)').waitFor();
    await page.getByRole('button', { name: 'More for entry' }).click();
    await page.getByRole('menuitem', { name: 'Delete' }).click();
    await dialog.getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('heading', { name: 'No load balancers' }).waitFor();
  });

  await tally.test('a packet is traced', async () => {
    await page.goto('/vms/web?tab=trace');
    await page.getByLabel('To address').fill('10.20.0.9');
    await page.getByLabel('Port').fill('80');
    await page.getByRole('button', { name: 'Trace', exact: true }).click();
    await page.getByRole('status').getByRole('listitem').first().waitFor();
    await picture(page, 'wide-light-traced');
  });

  await tally.test('a cluster is given a policy that only advises', async () => {
    await page.goto('/policies');
    await page.getByRole('button', { name: 'Create policy' }).click();
    await made('Create policy', 'wide-light-create-policy');
    await page.getByText('balance: advise').waitFor();
  });

  await tally.test('a cluster’s hosts are updated one after the other, until somebody ends it', async () => {
    await page.goto('/policies');
    await page.getByRole('button', { name: 'Update hosts' }).click();
    await dialog.getByText('Switch it off and on').click();
    must((await dialog.locator('details pre').first().textContent()) === 'gantry cluster update main --reboot', 'the command line is not what is done');
    await dialog.getByText('Wait for its agent').click();
    must((await dialog.locator('details pre').first().textContent()) === 'gantry cluster update main', 'the command line is not what is done');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-update-cluster');
    await dialog.getByRole('button', { name: 'Update' }).click();
    await dialog.waitFor({ state: 'detached' });
    await page.goto('/operations');
    await page.getByRole('link', { name: 'Cluster update' }).first().click();
    await page.getByText('host 1 of 2: host-1').waitFor();
    await picture(page, 'wide-light-cluster-update');
    await page.getByRole('button', { name: 'Cancel' }).click();
    await page.locator('article .pill', { hasText: 'cancelled' }).waitFor({ timeout: BOOT_MS });
    // Back at work, and what moved away is at rest.
    await page.waitForFunction(
      async () => {
        const { items } = await (await fetch('/v1/hosts')).json();
        const { status } = await (await fetch('/v1/vms/web')).json();
        return !status.operation && items.every((host) => (host.status.maintenance ?? 'off') === 'off' && !host.status.operation);
      },
      undefined,
      { timeout: BOOT_MS, polling: 250 },
    );
  });

  await tally.test('a resource pool is made, and another inside it, and a VM is put into that', async () => {
    await page.goto('/resource-pools');
    await page.getByRole('button', { name: 'Create pool' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('shop');
    await dialog.getByLabel('Promised, in percent of one').fill('100000');
    await dialog.getByText('The controller has objections').waitFor();
    await dialog.getByLabel('Promised, in percent of one').fill('50');
    await dialog.getByLabel('Memory at most').fill('1GiB');
    await made('Create pool', 'wide-light-create-resource-pool');
    await page.getByRole('button', { name: 'More for shop' }).click();
    await page.getByRole('menuitem', { name: 'Create one inside' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('front');
    await dialog.getByLabel('At most, in percent of one').fill('150');
    await dialog.getByText('The controller has checked it').waitFor();
    await dialog.getByRole('button', { name: 'Create pool' }).click();
    await page.getByRole('heading', { name: 'front' }).waitFor();

    await page.goto('/vms/web');
    await page.getByRole('button', { name: 'More for web' }).click();
    await page.getByRole('menuitem', { name: 'What it has of its host' }).click();
    await dialog.getByLabel('Resource pool').selectOption('front');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-part-of-host');
    await dialog.getByRole('button', { name: 'Change' }).click();
    await page.getByText('a part of front').waitFor();
    await page.goto('/resource-pools');
    await page.getByText('Divided among 1 host').first().click();
    await page.getByText('1 VM ·').first().waitFor();
    await picture(page, 'wide-light-resource-pool-in-use');
  });

  await tally.test('a VM is protected, and shutting out its host asks why', async () => {
    await page.goto('/vms/web');
    await page.getByRole('button', { name: 'More for web' }).click();
    await page.getByRole('menuitem', { name: 'When it fails' }).click();
    await dialog.getByLabel('When its QEMU ends').selectOption('it is started again');
    await dialog.getByLabel('When its guest fails').selectOption('its machine is reset');
    await dialog.getByLabel('When its application fails').selectOption('it is started on another host');
    await dialog.getByLabel('Disk goes back after').fill('3');
    await dialog.getByLabel('Priority').selectOption('high');
    const typed = 'gantry vm set web --ha restart --on-guest-failure reset --on-app-failure restart-elsewhere --roll-back-after 3 --priority high';
    must((await dialog.locator('pre').first().textContent()) === typed, 'the command line is not what is done');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-when-it-fails');
    await dialog.getByRole('button', { name: 'Change' }).click();
    await page.getByText('it is started again, high priority, at most 5 times within an hour; when its guest fails its machine is reset').waitFor();

    await page.goto('/hosts/host-2');
    await page.getByRole('button', { name: 'More for host-2' }).click();
    await page.getByRole('menuitem', { name: 'Fence' }).click();
    const fence = dialog.getByRole('button', { name: 'Fence' });
    must(await fence.isDisabled(), 'it is fenced without a reason');
    await dialog.getByLabel('Why').fill('its fans stand still');
    must(await fence.isEnabled(), 'it is not fenced with a reason');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-fence');
    // Others need it.
    await dialog.getByRole('button', { name: 'Leave it' }).click();
  });

  await tally.test('what would happen to a VM is told, and its snapshots are scheduled', async () => {
    await page.goto('/vms/web?tab=fails');
    await page.getByText('If its host fails, it waits for it').waitFor();
    await page.getByText('if it panics').waitFor();
    await page.getByText('resets its machine').first().waitFor();
    await page.getByText('after 3 failures of guest or application').waitFor();
    await page.goto('/vms/web?tab=snapshots');
    await page.getByRole('button', { name: 'Make a schedule' }).click();
    await dialog.getByLabel('Hours').fill('24');
    await dialog.getByLabel('Days').fill('7');
    must((await dialog.locator('details pre').first().textContent()) === 'gantry snapshot schedule web --hourly 24 --daily 7', 'the command line is not what is done');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-schedule');
    await dialog.getByRole('button', { name: 'Change' }).click();
    // The dialog says it as well, until it is told that it is done.
    await dialog.waitFor({ state: 'detached' });
    await page.getByText('the newest of each of the last 24 hours and 7 days').waitFor();
    // The first one is due at once; the next one is told by its time.
    await page.getByText('The last one').waitFor({ timeout: BOOT_MS });
    await picture(page, 'wide-light-scheduled');
    await page.getByRole('button', { name: 'Change schedule' }).click();
    await dialog.getByLabel('Hours').fill('0');
    await dialog.getByLabel('Days').fill('0');
    await dialog.getByRole('button', { name: 'Change' }).click();
    await page.getByRole('button', { name: 'Make a schedule' }).waitFor();
  });

  await tally.test('its application is asked by a probe, which says that it serves', async () => {
    await page.goto('/vms/web?tab=fails');
    await page.getByRole('button', { name: 'Change probes' }).click();
    await dialog.getByRole('button', { name: 'Add a probe' }).click();
    await dialog.getByLabel('If it fails').selectOption('the VM is not ready');
    await dialog.getByLabel('Path').fill('health');
    await dialog.getByText('must begin with /').waitFor();
    await dialog.getByLabel('Path').fill('/');
    await dialog.getByLabel('The answer contains').fill('ok');
    await dialog.getByText('How often and how long').click();
    await dialog.getByLabel('Every').fill('1');
    must((await dialog.locator('details pre').first().textContent()) === 'gantry vm set web --readiness-probe http://:80/ --probe-body ok --probe-period 1', 'the command line is not what is done');
    await made('Change probes', 'wide-light-probes');
    const probes = page.getByRole('region', { name: 'Probes' });
    await probes.getByText('passing').waitFor({ timeout: BOOT_MS });
    await picture(page, 'wide-light-probes-pass');
    await page.getByRole('button', { name: 'Change probes' }).click();
    await dialog.getByRole('button', { name: 'Remove probe 1' }).click();
    must((await dialog.locator('details pre').first().textContent()) === 'gantry vm set web --no-probes', 'the command line is not what is done');
    await made('Change probes', 'wide-light-no-probes');
    await probes.getByText('No probes').waitFor();
  });

  await tally.test('an address set is made, and a token, whose secret is shown once', async () => {
    await page.goto('/networks?tab=groups');
    await page.getByRole('button', { name: 'Create address set' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('office');
    await dialog.getByLabel('Addresses').fill('10.1.0.5\n192.0.2.0/24');
    await made('Create address set', 'wide-light-create-address-set');
    await page.getByText('10.1.0.5, 192.0.2.0/24').waitFor();

    await page.goto('/users?tab=tokens');
    await page.getByRole('button', { name: 'Create token' }).click();
    await dialog.getByLabel('Name').fill('reader');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-create-token');
    await dialog.getByRole('button', { name: 'Create token' }).click();
    await dialog.getByText('shown this once').waitFor();
    await dialog.getByRole('button', { name: 'Done' }).click();
    await page.getByRole('row').filter({ hasText: 'reader' }).getByText('viewer').waitFor();
  });

  await tally.test('what passes a port is saved as a file', async () => {
    await page.goto('/networks?tab=ports');
    await page.getByRole('button', { name: 'More for web-eth0' }).click();
    await page.getByRole('menuitem', { name: 'Capture' }).click();
    await dialog.getByLabel('Seconds').fill('2');
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-capture');
    const saving = page.waitForEvent('download');
    await dialog.getByRole('button', { name: 'Capture' }).click();
    const saved = await saving;
    must(saved.suggestedFilename() === 'web-eth0.pcap', saved.suggestedFilename());
    // The first four bytes of a pcap file (libpcap's savefile format), in either order.
    const begin = readFileSync(await saved.path()).subarray(0, 4).toString('hex');
    must(['d4c3b2a1', 'a1b2c3d4', '4d3cb2a1', 'a1b23c4d'].includes(begin), `it begins with ${begin}`);
  });

  await tally.test('a capture that is refused says why, and what to do', async () => {
    await page.goto('/networks?tab=ports');
    await page.getByRole('button', { name: 'More for web-eth0' }).click();
    await page.getByRole('menuitem', { name: 'Capture' }).click();
    await dialog.getByLabel('Seconds').fill('4000');
    await dialog.getByRole('button', { name: 'Capture' }).click();
    await dialog.getByRole('alert').getByText('4000 is out of range, use 1 to 3600').waitFor();
    await mustHaveNoBarriers(page);
    await picture(page, 'wide-light-capture-refused');
    await dialog.getByRole('button', { name: 'Leave it' }).click();
  });

  await tally.test('a VM that runs is cloned, as it is and from a snapshot', async () => {
    await page.goto('/vms/web');
    await page.getByRole('button', { name: 'More for web', exact: true }).click();
    await page.getByRole('menuitem', { name: 'Clone it' }).click();
    await cloned(() => mustHaveNoBarriers(page).then(() => picture(page, 'wide-light-clone-vm')), 'gantry vm clone web copy --stopped');

    await page.goto('/vms/web?tab=snapshots');
    await page.getByRole('button', { name: 'More for web-' }).first().click();
    await page.getByRole('menuitem', { name: 'Clone it' }).click();
    await dialog.getByText('held when this was taken').waitFor();
    await cloned(() => picture(page, 'wide-light-clone-snapshot'), 'gantry vm clone web copy --snapshot ');
  });

  /** From the dialog that is open; and deleted again. */
  async function cloned(look, typed) {
    await dialog.getByLabel('Name of the clone').fill('copy');
    await dialog.getByLabel('Start it at once').uncheck();
    await look();
    must((await dialog.locator('details pre').first().textContent()).startsWith(typed), 'the command line is not what is done');
    await dialog.getByRole('button', { name: 'Clone' }).click();
    await page.waitForURL('**/vms/copy');
    await page.locator('header .pill', { hasText: 'stopped' }).waitFor({ timeout: BOOT_MS });
    await page.goto('/vms/web');
    await page.locator('header .pill', { hasText: 'running' }).waitFor();
    await page.goto('/vms/copy');
    await page.getByRole('button', { name: 'More for copy' }).click();
    await page.getByRole('menuitem', { name: 'Delete' }).click();
    await dialog.getByRole('button', { name: 'Delete' }).click();
    await page.getByText('There is no VM copy').waitFor({ timeout: BOOT_MS });
  }

  /** Once the controller has checked it. */
  async function made(button, name) {
    await dialog.getByText('The controller has checked it').waitFor();
    await mustHaveNoBarriers(page);
    await picture(page, name);
    await dialog.getByRole('button', { name: button }).click();
    await dialog.waitFor({ state: 'detached' });
  }
}
