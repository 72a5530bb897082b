import { ILabShell, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import { INotebookTracker, type NotebookPanel } from '@jupyterlab/notebook';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator } from '@jupyterlab/translation';
import { Signal } from '@lumino/signaling';
import { DOMAIN, ISandboxes } from '../model/tokens';
import { Shield, type Surroundings } from './shield';

/** Says in each notebook's toolbar, and in the status bar, where the notebook runs. */
export const shield: JupyterFrontEndPlugin<void> = {
  id: 'hyper-kernel:shield',
  description: 'Says where a notebook runs, under which limits, and what it uses.',
  autoStart: true,
  requires: [ISandboxes, INotebookTracker, ITranslator],
  optional: [IToolbarWidgetRegistry, IStatusBar, ILabShell],
  activate: (
    app: JupyterFrontEnd,
    model: ISandboxes,
    notebooks: INotebookTracker,
    translator: ITranslator,
    toolbars: IToolbarWidgetRegistry | null,
    statusBar: IStatusBar | null,
    shell: ILabShell | null
  ) => {
    const { kernelspecs } = app.serviceManager;
    const around: Surroundings = {
      model,
      commands: app.commands,
      trans: translator.load(DOMAIN),
      inSandboxes: name => {
        const provisioner = kernelspecs.specs?.kernelspecs[name]?.metadata?.kernel_provisioner;
        return (
          (provisioner as { provisioner_name?: string } | undefined)?.provisioner_name === 'hyper-provisioner'
        );
      }
    };
    toolbars?.addFactory<NotebookPanel>('Notebook', 'hyperShield', notebook => {
      const item = new Shield(around, false);
      item.context = notebook.sessionContext;
      return item;
    });
    if (statusBar) {
      const item = new Shield(around, true);
      const moved = new Signal<Shield, void>(item);
      notebooks.currentChanged.connect((_, notebook) => {
        item.context = notebook?.sessionContext;
        moved.emit();
      });
      shell?.currentChanged.connect(() => moved.emit());
      statusBar.registerStatusItem('hyper-kernel:shield', {
        item,
        align: 'left',
        rank: 5,
        isActive: () =>
          !!notebooks.currentWidget && (!shell || shell.currentWidget === notebooks.currentWidget),
        activeStateChanged: moved
      });
    }
  }
};
