import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Api } from './api';
import { Sandboxes } from './sandboxes';
import { ISandboxes } from './tokens';

/** Knows the user's sandboxes; all other plugins ask it. */
export const sandboxes: JupyterFrontEndPlugin<ISandboxes> = {
  id: 'hyper-kernel:sandboxes',
  description: 'Knows the sandboxes of the user, and what they use.',
  autoStart: true,
  provides: ISandboxes,
  optional: [ISettingRegistry],
  activate: (app: JupyterFrontEnd, registry: ISettingRegistry | null): ISandboxes => {
    const { serverSettings, events } = app.serviceManager;
    const model = new Sandboxes(new Api(serverSettings), events);
    void registry?.load(sandboxes.id).then(settings => {
      const take = () => {
        model.interval = 1000 * (settings.get('interval').composite as number);
      };
      settings.changed.connect(take);
      take();
    });
    return model;
  }
};
