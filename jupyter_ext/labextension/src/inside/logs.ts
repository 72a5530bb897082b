import { type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, MainAreaWidget } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ITranslator, type TranslationBundle } from '@jupyterlab/translation';
import { refreshIcon, ToolbarButton } from '@jupyterlab/ui-components';
import { Poll } from '@lumino/polling';
import { Widget } from '@lumino/widgets';
import { BY_ID, sandboxOf } from '../commands';
import { logsIcon } from '../icons';
import { words } from '../model/api';
import { CommandIDs, DOMAIN, ISandboxes } from '../model/tokens';
import { title } from '../words';

/** What a sandbox's program, or its kernel's process, has written. */
export const logs: JupyterFrontEndPlugin<void> = {
  id: 'hyper-kernel:logs',
  description: 'Shows what a sandbox has written.',
  autoStart: true,
  requires: [ISandboxes, ITranslator],
  optional: [INotebookTracker, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    model: ISandboxes,
    translator: ITranslator,
    notebooks: INotebookTracker | null,
    palette: ICommandPalette | null
  ) => {
    const trans = translator.load(DOMAIN);
    const opened = new Map<string, MainAreaWidget>();
    app.commands.addCommand(CommandIDs.logs, {
      label: trans.__('Show Logs of Sandbox'),
      icon: logsIcon,
      describedBy: BY_ID,
      isEnabled: args => !!sandboxOf(args, model, notebooks),
      execute: args => {
        const sandbox = sandboxOf(args, model, notebooks);
        if (!sandbox) {
          return;
        }
        let main = opened.get(sandbox.id);
        if (!main) {
          main = framed(new LogView(model, sandbox.id, trans), trans.__('Logs of %1', title(sandbox)), trans);
          main.disposed.connect(() => opened.delete(sandbox.id));
          opened.set(sandbox.id, main);
          app.shell.add(main, 'main', { type: 'Sandbox Logs' });
        }
        app.shell.activateById(main.id);
      }
    });
    palette?.addItem({ command: CommandIDs.logs, category: trans.__('Sandbox') });
  }
};

/** How often it is asked what was written meanwhile, in milliseconds. */
const ASK_MS = 2000;

/** The text, as plain text whatever it holds; asked for again while somebody looks at it. */
class LogView extends Widget {
  constructor(
    private readonly _model: ISandboxes,
    private readonly _id: string,
    private readonly _trans: TranslationBundle
  ) {
    super({ node: document.createElement('pre') });
    this.addClass('hyper-Logs');
    this.node.tabIndex = 0;
    _model.happened.connect(this._onHappened, this);
    this._poll = new Poll({
      name: 'hyper-kernel:logs',
      factory: () => this.refresh(),
      frequency: { interval: ASK_MS, backoff: false },
      standby: () => (this.isVisible ? 'when-hidden' : true)
    });
    void this.refresh();
  }

  override dispose(): void {
    this._poll.dispose();
    super.dispose();
  }

  async refresh(): Promise<void> {
    let text: string;
    try {
      text = (await this._model.api.logs(this._id)) || this._trans.__('It has written nothing.');
    } catch (error) {
      text = words(error);
    }
    const { node } = this;
    if (this.isDisposed || text === node.textContent) {
      return;
    }
    // Who reads further up is left there.
    const isAtEnd = node.scrollTop + node.clientHeight >= node.scrollHeight - 1;
    node.textContent = text;
    if (isAtEnd) {
      node.scrollTop = node.scrollHeight;
    }
  }

  private _onHappened(_: ISandboxes, { sandbox }: { sandbox: string }): void {
    if (sandbox === this._id && this.isVisible) {
      void this.refresh();
    }
  }

  private readonly _poll: Poll;
}

function framed(content: LogView, label: string, trans: TranslationBundle): MainAreaWidget {
  const main = new MainAreaWidget({ content });
  main.title.label = label;
  main.title.icon = logsIcon;
  main.title.closable = true;
  main.toolbar.addClass('hyper-Tools');
  main.toolbar.addItem(
    'refresh',
    new ToolbarButton({
      icon: refreshIcon,
      label: trans.__('Refresh'),
      onClick: () => void content.refresh()
    })
  );
  return main;
}
