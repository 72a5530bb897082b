import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IRunningSessionManagers, type IRunningSessions } from '@jupyterlab/running';
import { ITranslator } from '@jupyterlab/translation';
import { tierIcon } from './icons';
import { imageName } from './model/figures';
import { CommandIDs, DOMAIN, ISandboxes } from './model/tokens';
import { isAlive, type Sandbox } from './model/types';
import { state, title } from './words';

/** Sandboxes among *Running Terminals and Kernels*. */
export const running: JupyterFrontEndPlugin<void> = {
  id: 'hyper-kernel:running',
  description: 'Lists sandboxes among what runs.',
  autoStart: true,
  requires: [ISandboxes, IRunningSessionManagers, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    model: ISandboxes,
    managers: IRunningSessionManagers,
    translator: ITranslator
  ) => {
    const trans = translator.load(DOMAIN);
    const alive = () => model.all.filter(isAlive);
    const item = (sandbox: Sandbox): IRunningSessions.IRunningItem => ({
      icon: () => tierIcon(sandbox.tier),
      label: () => title(sandbox),
      labelTitle: () => `${imageName(sandbox.image)} · ${state(sandbox, trans)}`,
      detail: () => state(sandbox, trans),
      open: () => {
        const command = sandbox.kernel?.path ? CommandIDs.openNotebook : CommandIDs.showPanel;
        void app.commands.execute(command, { id: sandbox.id });
      },
      shutdown: () => void app.commands.execute(CommandIDs.stop, { id: sandbox.id })
    });
    managers.add({
      name: trans.__('Sandboxes'),
      running: () => alive().map(item),
      runningChanged: model.changed,
      refreshRunning: () => void model.refresh(),
      shutdownLabel: trans.__('Stop'),
      shutdownAllLabel: trans.__('Stop All'),
      shutdownAllConfirmationText: trans.__(
        'Stop all sandboxes? What they hold and you have not saved is lost.'
      ),
      shutdownAll: () => alive().forEach(each => void model.act(each.id, 'stop').catch(console.warn))
    });
  }
};
