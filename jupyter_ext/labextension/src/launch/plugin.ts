import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Dialog, ICommandPalette, showDialog, showErrorMessage } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import type { Contents } from '@jupyterlab/services';
import { ITranslator, type TranslationBundle } from '@jupyterlab/translation';
import card from '../../style/icons/new-sandbox.svg';
import { shieldIcon } from '../icons';
import { type Api, words } from '../model/api';
import { CommandIDs, DOMAIN, ISandboxes } from '../model/tokens';
import type { Policy } from '../model/types';
import { type Choice, SandboxForm } from './dialog';
import { type Field, fields, type Parameters, wish } from './parameters';

/** The kernelspec whose parameters the dialog shows, and that the new notebook gets. */
const KERNEL = 'hyper-python';

/** *New sandbox…*: in the launcher, the menu and the palette. */
export const launch: JupyterFrontEndPlugin<void> = {
  id: 'hyper-kernel:launch',
  description: 'Opens a notebook in a sandbox of a chosen image and size.',
  autoStart: true,
  requires: [ISandboxes, ITranslator],
  optional: [ILauncher, ICommandPalette, IDefaultFileBrowser],
  activate: (
    app: JupyterFrontEnd,
    model: ISandboxes,
    translator: ITranslator,
    launcher: ILauncher | null,
    palette: ICommandPalette | null,
    browser: IDefaultFileBrowser | null
  ) => {
    const trans = translator.load(DOMAIN);
    app.commands.addCommand(CommandIDs.create, {
      label: args => (args.isPalette || args.isLauncher ? trans.__('New Sandbox…') : trans.__('Sandbox…')),
      caption: trans.__('Open a notebook in a sandbox of a chosen image and size'),
      icon: shieldIcon,
      execute: async args => {
        const folder = typeof args.cwd === 'string' ? args.cwd : (browser?.model.path ?? '');
        try {
          await new Start(app, model.api, trans).run(folder);
        } catch (error) {
          await showErrorMessage(trans.__('Cannot start a sandbox'), words(error));
        }
      }
    });
    palette?.addItem({
      command: CommandIDs.create,
      category: trans.__('Sandbox'),
      args: { isPalette: true }
    });
    launcher?.add({
      command: CommandIDs.create,
      category: 'Notebook',
      rank: Infinity,
      args: { isLauncher: true },
      kernelIconUrl: `data:image/svg+xml,${encodeURIComponent(card)}`
    });
  }
};

/** From the question to the open notebook. */
class Start {
  constructor(
    private readonly _app: JupyterFrontEnd,
    private readonly _api: Api,
    private readonly _trans: TranslationBundle
  ) {}

  async run(folder: string): Promise<void> {
    const [shown, policy] = await this._fields();
    const notebooks = this._app.serviceManager.contents;
    const choice: Choice = {};
    let problem = '';
    let notebook: Contents.IModel | null = null;
    while (await this._ask(shown, choice, problem, policy?.file ?? '')) {
      notebook ??= await notebooks.newUntitled({ path: folder, type: 'notebook' });
      try {
        await this._api.wish(wish(notebook.path, choice));
        await this._open(notebook.path);
        return;
      } catch (error) {
        problem = words(error);
      }
    }
    if (notebook) {
      await notebooks.delete(notebook.path);
    }
  }

  private async _fields(): Promise<[Field[], Policy | null]> {
    const { kernelspecs } = this._app.serviceManager;
    await kernelspecs.ready;
    const parameters = kernelspecs.specs?.kernelspecs[KERNEL]?.metadata?.parameters ?? {};
    // Where hyperd does not run yet, it cannot say its policy; it will when the sandbox starts.
    const [policy, images] = await Promise.all([
      this._api.policy().catch(() => null),
      this._api.images().catch(() => [])
    ]);
    return [fields(parameters as Parameters, policy, images), policy];
  }

  private async _ask(shown: Field[], choice: Choice, problem: string, file: string): Promise<boolean> {
    const result = await showDialog<Choice>({
      title: this._trans.__('New sandbox'),
      body: new SandboxForm(shown, choice, problem, file, this._trans),
      buttons: [
        Dialog.cancelButton({ label: this._trans.__('Cancel') }),
        Dialog.okButton({ label: this._trans.__('Start') })
      ],
      focusNodeSelector: 'select'
    });
    return result.button.accept;
  }

  private async _open(path: string): Promise<void> {
    await this._app.commands.execute('docmanager:open', {
      path,
      factory: 'Notebook',
      kernel: { name: KERNEL }
    });
  }
}
